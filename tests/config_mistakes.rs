//! What a user is told about each mistake in a configuration file or an override: the place, what was expected, what
//! was found and what to do. All of it without a file on the disk.

use std::path::Path;

use rosette::config::Config;

/// A sound configuration, in which a case replaces one line.
const SOUND: &str = "\
model:
  use_intensity: false
  patch_size: 512
default_training:
  num_epochs: 100
  learning_rate: 0.001
  augmentation:
    rotation: 0.5
experiments:
  - name: first
    batch_size: 8
  - name: second
    description: the other
";

fn message(text: &str) -> String {
    let error = Config::parse(Path::new("config.yaml"), text).expect_err("the text holds a mistake");
    assert_eq!(error.exit_code(), 2, "a mistake of the user");
    error.to_string()
}

/// Line (1-based) of [`SOUND`], what replaces it, and what is said: the place, what was expected, what was found and
/// what to do.
struct Case(usize, &'static str, [&'static str; 4]);

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case(3, "  patch_sise: 512", ["config.yaml:3:3: model", "a key that is known here", "the unknown key `patch_sise`", "did you mean `patch_size`?"]),
    Case(3, "  patch_size: 500", ["config.yaml:3:15: model.patch_size", "a multiple of 16 from 16 to 4096", "the integer 500", "four 2x2 poolings halve the patch four times: take 256, 384, 512, ..."]),
    Case(3, "  patch_size: 8", ["config.yaml:3:15: model.patch_size", "a multiple of 16 from 16 to 4096", "the integer 8", "four 2x2 poolings halve the patch four times: take 256, 384, 512, ..."]),
    Case(3, "  patch_size: 8192", ["config.yaml:3:15: model.patch_size", "a multiple of 16 from 16 to 4096", "the integer 8192", "four 2x2 poolings halve the patch four times: take 256, 384, 512, ..."]),
    Case(3, "  patch_size: \"512\"", ["config.yaml:3:15: model.patch_size", "a multiple of 16 from 16 to 4096", "the text \"512\"", "write it without quotes and without a fraction"]),
    Case(3, "  patch_size: 512.0", ["config.yaml:3:15: model.patch_size", "a multiple of 16 from 16 to 4096", "the number 512.0", "write it without quotes and without a fraction"]),
    Case(3, "  patch_size:", ["config.yaml:3:13: model.patch_size", "a multiple of 16 from 16 to 4096", "nothing", "write a value after the colon, or remove the line for the default"]),
    Case(3, "  patch_size: [512, 512]", ["config.yaml:3:15: model.patch_size", "a multiple of 16 from 16 to 4096", "a list of 2", "write it without quotes and without a fraction"]),
    Case(3, "  num_classes: 2", ["config.yaml:3:16: model.num_classes", "1 (nothing else is supported)", "the integer 2", "the output is one channel: rosette or not"]),
    Case(3, "  architecture: attention_net", ["config.yaml:3:17: model.architecture", "\"attention_unet\"", "the text \"attention_net\"", "did you mean `attention_unet`?"]),
    Case(3, "  architecture: 3", ["config.yaml:3:17: model.architecture", "\"attention_unet\"", "the integer 3", "write one of these words"]),
    Case(3, "  skip: pool", ["config.yaml:3:9: model.skip", "\"full\" or \"pooled\"", "the text \"pool\"", "did you mean `pooled`?"]),
    Case(3, "  base_channels: 12", ["config.yaml:3:18: model.base_channels", "a multiple of 8 from 8 to 256", "the integer 12", "64 is the published network; 8 or 16 make a small one for trials"]),
    Case(2, "  use_intensity: 1", ["config.yaml:2:18: model.use_intensity", "true or false", "the integer 1", "write true or false, without quotes"]),
    Case(2, "  use_intensity: \"true\"", ["config.yaml:2:18: model.use_intensity", "true or false", "the text \"true\"", "write true or false, without quotes"]),
    Case(2, "  rotation: 0.5", ["config.yaml:2:3: model", "a key that is known here", "the unknown key `rotation`", "known are: architecture, use_intensity, patch_size, num_classes, base_channels, skip"]),
    Case(1, "modell:", ["config.yaml:1:1", "a key that is known here", "the unknown key `modell`", "did you mean `model`?"]),
    Case(5, "  num_epochs: 0", ["config.yaml:5:15: default_training.num_epochs", "an integer from 1 to 1000000", "the integer 0", "give `default_training.num_epochs` such a value, or leave it out for the default"]),
    Case(5, "  num_epochs: -3", ["config.yaml:5:15: default_training.num_epochs", "an integer from 1 to 1000000", "the integer -3", "give `default_training.num_epochs` such a value, or leave it out for the default"]),
    Case(5, "  num_epochs: ten", ["config.yaml:5:15: default_training.num_epochs", "an integer from 1 to 1000000", "the text \"ten\"", "write it without quotes and without a fraction"]),
    Case(5, "  batchsize: 4", ["config.yaml:5:3: default_training", "a key that is known here", "the unknown key `batchsize`", "did you mean `batch_size`?"]),
    Case(5, "  seed: 4294967296", ["config.yaml:5:9: default_training.seed", "an integer from 0 to 4294967295", "the integer 4294967296", "give `default_training.seed` such a value, or leave it out for the default"]),
    Case(5, "  seed: 99999999999999999999999999", ["config.yaml:5:9: default_training.seed", "an integer from 0 to 4294967295", "the number 1e26", "write it without quotes and without a fraction"]),
    Case(5, "  patience: 0", ["config.yaml:5:13: default_training.patience", "an integer from 1 to 1000000", "the integer 0", "give `default_training.patience` such a value, or leave it out for the default"]),
    Case(5, "  val_split: 0", ["config.yaml:5:14: default_training.val_split", "a number above 0 and below 1", "the integer 0", "give `default_training.val_split` such a value, or leave it out for the default"]),
    Case(5, "  val_split: 1.0", ["config.yaml:5:14: default_training.val_split", "a number above 0 and below 1", "the number 1.0", "give `default_training.val_split` such a value, or leave it out for the default"]),
    Case(5, "  dice_weight: 1.5", ["config.yaml:5:16: default_training.dice_weight", "a number from 0 to 1", "the number 1.5", "give `default_training.dice_weight` such a value, or leave it out for the default"]),
    Case(5, "  foreground_share: -0.1", ["config.yaml:5:21: default_training.foreground_share", "a number from 0 to 1", "the number -0.1", "give `default_training.foreground_share` such a value, or leave it out for the default"]),
    Case(5, "  weight_decay: .nan", ["config.yaml:5:17: default_training.weight_decay", "a number from 0 to 1", "the number NaN", "give `default_training.weight_decay` such a value, or leave it out for the default"]),
    Case(6, "  learning_rate: 0", ["config.yaml:6:18: default_training.learning_rate", "a number above 0 and at most 1", "the integer 0", "give `default_training.learning_rate` such a value, or leave it out for the default"]),
    Case(6, "  learning_rate: 1e9", ["config.yaml:6:18: default_training.learning_rate", "a number above 0 and at most 1", "the number 1000000000.0", "give `default_training.learning_rate` such a value, or leave it out for the default"]),
    Case(6, "  learning_rate: 0,001", ["config.yaml:6:18: default_training.learning_rate", "a number above 0 and at most 1", "the text \"0,001\"", "write it without quotes, e.g. 0.001 or 1e-3"]),
    Case(6, "  learning_rate: .inf", ["config.yaml:6:18: default_training.learning_rate", "a number above 0 and at most 1", "the number inf", "give `default_training.learning_rate` such a value, or leave it out for the default"]),
    Case(6, "  LearningRate: 0.1", ["config.yaml:6:3: default_training", "a key that is known here", "the unknown key `LearningRate`", "did you mean `learning_rate`?"]),
    Case(6, "  num_epochs: 3", ["config.yaml:6:3", "each key once", "`num_epochs` again", "remove one of the two"]),
    Case(7, "  augmentation: 0.5", ["config.yaml:8:13", "valid YAML", "mapping values are not allowed in this context", "check the indentation (spaces, no tabs), colons and quotes there"]),
    Case(7, "  augmentations:", ["config.yaml:7:3: default_training", "a key that is known here", "the unknown key `augmentations`", "did you mean `augmentation`?"]),
    Case(8, "    rotation: 1.2", ["config.yaml:8:15: default_training.augmentation.rotation", "a number from 0 to 1", "the number 1.2", "it is a probability: 0 switches it off, 1 applies it always"]),
    Case(8, "    rotate: 0.5", ["config.yaml:8:5: default_training.augmentation", "a key that is known here", "the unknown key `rotate`", "did you mean `rotation`?"]),
    Case(8, "    rotation: true", ["config.yaml:8:15: default_training.augmentation.rotation", "a number from 0 to 1", "the boolean true", "write it without quotes, e.g. 0.001 or 1e-3"]),
    Case(8, "    flip: 0.5", ["config.yaml:8:5: default_training.augmentation", "a key that is known here", "the unknown key `flip`", "known are: horizontal_flip, vertical_flip, rotation, elastic_transform, affine_transform, coarse_dropout, random_scale, intensity_gain, intensity_gamma, intensity_noise, intensity_blur, magnitudes"]),
    Case(8, "\trotation: 0.5", ["config.yaml:8:2", "valid YAML", "tabs disallowed within this context (block indentation)", "check the indentation (spaces, no tabs), colons and quotes there"]),
    Case(9, "experiment:", ["config.yaml:9:1", "a key that is known here", "the unknown key `experiment`", "did you mean `experiments`?"]),
    Case(9, "experiments: 3", ["config.yaml:10:9", "valid YAML", "mapping values are not allowed in this context", "check the indentation (spaces, no tabs), colons and quotes there"]),
    Case(10, "  - description: nameless", ["config.yaml:10:5: experiments[item 1]", "an experiment with a key `name`", "a mapping of 2 keys", "add `name: ...`: it names the results"]),
    Case(10, "  - name: second", ["config.yaml:12:11: experiments[second].name", "a name of its own for every experiment, upper and lower case aside", "the text \"second\"", "rename one of the two"]),
    Case(10, "  - name: 1", ["config.yaml:10:11: experiments[item 1].name", "text", "the integer 1", "put it in quotes"]),
    Case(10, "  - name: ../up", ["config.yaml:10:11: experiments[item 1].name", "letters, digits, `_`, `-` and `.`, with a letter, a digit or `_` first", "the text \"../up\"", "choose a plain name: the results go into a directory of that name"]),
    Case(10, "  - name: \"\"", ["config.yaml:10:11: experiments[item 1].name", "letters, digits, `_`, `-` and `.`, with a letter, a digit or `_` first", "the text \"\"", "choose a plain name: the results go into a directory of that name"]),
    Case(10, "  - name: [a]", ["config.yaml:10:11: experiments[item 1].name", "text", "a list of 1", "put it in quotes"]),
    Case(11, "    batch_size: 0", ["config.yaml:11:17: experiments[first].batch_size", "an integer from 1 to 1024", "the integer 0", "give `experiments[first].batch_size` such a value, or leave it out for the default"]),
    Case(11, "    batch_sise: 8", ["config.yaml:11:5: experiments[first]", "a key that is known here", "the unknown key `batch_sise`", "did you mean `batch_size`?"]),
    Case(11, "    rotation: 0.0", ["config.yaml:11:5: experiments[first]", "a key that is known here", "the unknown key `rotation`", "`rotation` belongs under `augmentation`"]),
    Case(11, "    augmentation: {rotation: 2}", ["config.yaml:11:30: experiments[first].augmentation.rotation", "a number from 0 to 1", "the integer 2", "it is a probability: 0 switches it off, 1 applies it always"]),
    Case(11, "    model: {skip: none}", ["config.yaml:11:19: experiments[first].model.skip", "\"full\" or \"pooled\"", "the text \"none\"", "known are: full, pooled"]),
    Case(11, "    default_training: {num_epochs: 3}", ["config.yaml:11:5: experiments[first]", "a key that is known here", "the unknown key `default_training`", "known are: description, num_epochs, batch_size, learning_rate, scheduler, warmup_epochs, min_learning_rate, poly_power, clip_norm, accumulation, ema_decay, batch_fit, memory_limit, folds, seeds, val_split, seed, patience, patches_per_sample, weight_decay, loss, pos_weight, focal_gamma, focal_alpha, tversky_alpha, tversky_beta, dice_weight, foreground_share, winograd, recompute, precision, deterministic, data, augmentation, report, architecture, use_intensity, patch_size, num_classes, base_channels, skip"]),
    Case(13, "    description: 3", ["config.yaml:13:18: experiments[second].description", "text", "the integer 3", "put it in quotes"]),
    Case(13, "    description: \"open", ["config.yaml:13:18", "valid YAML", "unclosed quote", "check the indentation (spaces, no tabs), colons and quotes there"]),
    Case(13, "  descr: x", ["config.yaml:13:3", "valid YAML", "no '-' indicator while parsing a block collection", "check the indentation (spaces, no tabs), colons and quotes there"]),
    Case(4, "default_training: [1, 2]", ["config.yaml:5:3", "valid YAML", "no key while parsing a block mapping", "check the indentation (spaces, no tabs), colons and quotes there"]),
    Case(4, "- x", ["config.yaml:4:3", "valid YAML", "no key while parsing a block mapping", "check the indentation (spaces, no tabs), colons and quotes there"]),
    Case(12, "  - [second]", ["config.yaml:13:5", "valid YAML", "no '-' indicator while parsing a block collection", "check the indentation (spaces, no tabs), colons and quotes there"]),
];

/// What is said of a placeholder, besides its place.
const PLACEHOLDER: &str = "the pipeline fills such placeholders in the sections that it reads itself, and this one \
                           reaches rosette as it stands: write the value";

#[test]
fn placeholders_are_ignored_where_nothing_is_read_and_named_where_something_is() {
    let cases = [
        (
            3,
            "  patch_size: \"{global[patch_size]}\"",
            "config.yaml:3:15: model.patch_size",
            "{global[patch_size]}",
        ),
        (2, "  use_intensity: \"{global[a][b]}\"", "config.yaml:2:18: model.use_intensity", "{global[a][b]}"),
        (6, "  learning_rate: \"{rate}\"", "config.yaml:6:18: default_training.learning_rate", "{rate}"),
        (3, "  skip: \"{global[skip]}\"", "config.yaml:3:9: model.skip", "{global[skip]}"),
        (
            8,
            "    rotation: \"{global[r]}\"",
            "config.yaml:8:15: default_training.augmentation.rotation",
            "{global[r]}",
        ),
        (
            11,
            "    augmentation: \"{global[a]}\"",
            "config.yaml:11:19: experiments[first].augmentation",
            "{global[a]}",
        ),
        (10, "  - name: \"{global[name]}\"", "config.yaml:10:11: experiments[item 1].name", "{global[name]}"),
    ];
    for (line, by, place, text) in cases {
        let mut lines: Vec<&str> = SOUND.lines().collect();
        lines[line - 1] = by;
        let said = message(&lines.join("\n"));
        assert!(said.starts_with(&format!("{place}: expected ")), "{said}");
        let ends = format!(", found the placeholder \"{text}\"\n  help: {PLACEHOLDER}");
        assert!(said.ends_with(&ends), "{said}");
    }
    // A description is only shown, and braces alone make no placeholder.
    let sound = SOUND.replace("the other", "\"of {global[site]}\"");
    assert!(Config::parse(Path::new("config.yaml"), &sound).is_ok());
    let said = message(&SOUND.replace("patch_size: 512", "patch_size: \"{}\""));
    assert!(said.contains("the text \"{}\""), "{said}");
    let sections = "inputs: \"{global[a]}\"\noutputs: [\"{global[b]}\", {\"{global[c]}\": {x: \"{global[d]}/e\"}}]\nresources:\n";
    assert!(Config::parse(Path::new("config.yaml"), &format!("{sections}{SOUND}")).is_ok());
}

/// The text of the error in its four parts.
fn whole([place, expected, found, remedy]: &[&str; 4]) -> String {
    format!("{place}: expected {expected}, found {found}\n  help: {remedy}")
}

#[test]
fn every_mistake_in_a_file_is_told_with_its_place_and_remedy() {
    for Case(line, by, said) in CASES {
        let mut lines: Vec<&str> = SOUND.lines().collect();
        lines[line - 1] = by;
        assert_eq!(message(&lines.join("\n")), whole(said), "line {line} as {by:?}");
    }
}

/// A whole file, and what is said of it.
const FILES: &[(&str, [&str; 4])] = &[
    (
        "",
        [
            "config.yaml:1:1",
            "a section `experiments`",
            "nothing",
            "add `experiments:` with a list of `- name: ...`",
        ],
    ),
    (
        "- a\n- b\n",
        [
            "config.yaml:1:1",
            "a mapping of keys to values",
            "a list of 2",
            "indent `key: value` lines below it",
        ],
    ),
    (
        "experiments: []\n",
        [
            "config.yaml:1:14: experiments",
            "a list of at least one experiment",
            "a list of 0",
            "write `- name: ...` for each of them",
        ],
    ),
    (
        "experiments: 3\n",
        [
            "config.yaml:1:14: experiments",
            "a list of at least one experiment",
            "the integer 3",
            "write `- name: ...` for each of them",
        ],
    ),
    (
        "experiments:\n  - baseline\n",
        [
            "config.yaml:2:5: experiments[item 1]",
            "a mapping of keys to values",
            "the text \"baseline\"",
            "indent `key: value` lines below it",
        ],
    ),
    (
        "default_training: [1, 2]\nexperiments:\n  - name: a\n",
        [
            "config.yaml:1:19: default_training",
            "a mapping of keys to values",
            "a list of 2",
            "indent `key: value` lines below it",
        ],
    ),
    (
        "hyperparameters: {}\nexperiments:\n  - name: a\n",
        [
            "config.yaml:1:1",
            "a key that is known here",
            "the unknown key `hyperparameters`",
            "known are: model, default_training, experiments",
        ],
    ),
];

#[test]
fn every_mistake_in_the_shape_of_a_file_is_told() {
    for (text, said) in FILES {
        assert_eq!(message(text), whole(said), "{text:?}");
    }
}

/// An override, and what is said of it.
const OVERRIDES: &[(&str, [&str; 3])] = &[
    ("num_epochs", ["key=value", "no `=`", "write e.g. --override num_epochs=1"]),
    ("num_epochs=", ["key=value", "no value", "write e.g."]),
    ("=3", ["key=value", "no key", "write e.g."]),
    ("augmentation..rotation=3", ["key=value", "an empty part", "write e.g."]),
    (
        "num_epoch=3",
        ["a key that is known here", "the unknown key `num_epoch`", "did you mean `num_epochs`?"],
    ),
    ("num_epochs=0.5", ["an integer from 1 to 1000000", "the number 0.5", "without a fraction"]),
    ("num_epochs=0", ["an integer from 1 to 1000000", "the integer 0", "`num_epochs`"]),
    ("augmentation.rotation=2", ["a number from 0 to 1", "the integer 2", "it is a probability"]),
    ("augmentation.rotate=0", ["a key that is known here", "`rotate`", "did you mean `rotation`?"]),
    ("rotation=0", ["a key that is known here", "`rotation`", "`rotation` belongs under `augmentation`"]),
    ("augmentation=0", ["a key of this section", "the integer 0", "augmentation.KEY=VALUE"]),
    ("num_epochs.x=3", ["an integer from 1 to 1000000", "a mapping of one key", "without quotes"]),
    ("model.skip=half", ["\"full\" or \"pooled\"", "the text \"half\"", "known are: full, pooled"]),
    (
        "model.dice_weight=1",
        ["a key that is known here", "the unknown key `dice_weight`", "known are: architecture"],
    ),
    ("model.patch_size=100", ["a multiple of 16 from 16 to 4096", "the integer 100", "poolings"]),
    ("name=other", ["a key that is known here", "the unknown key `name`", "known are"]),
    ("learning_rate=[1", ["a number above 0 and at most 1", "the text \"[1\"", "without quotes"]),
];

#[test]
fn every_mistake_in_an_override_is_told_with_the_override_itself() {
    let config = Config::parse(Path::new("config.yaml"), SOUND).unwrap();
    for (text, phrases) in OVERRIDES {
        let error = config.resolve("first", &[text.to_string()]).expect_err(text);
        let said = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(said.starts_with(&format!("--override {text}")), "{said}");
        for phrase in phrases {
            assert!(said.contains(phrase), "{text}: no {phrase:?} in\n{said}");
        }
    }
}

#[test]
fn an_unknown_experiment_is_told_with_the_nearest_name() {
    let config = Config::parse(Path::new("config.yaml"), SOUND).unwrap();
    let said = |name: &str| config.resolve(name, &[]).unwrap_err().to_string();
    assert_eq!(
        said("secnd"),
        "config.yaml: experiments: expected the name of an experiment of this file, found \"secnd\"\n  \
         help: did you mean `second`?"
    );
    assert!(said("baseline").contains("help: known are: first, second"), "{}", said("baseline"));
}

#[test]
fn an_absent_file_is_told_with_its_path() {
    let error = Config::load(Path::new("no/such/config.yaml")).unwrap_err();
    assert!(error.to_string().starts_with("no/such/config.yaml: expected a file to read"), "{error}");
}
