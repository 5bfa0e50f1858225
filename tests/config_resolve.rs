//! How settings come together: built-in defaults, the file's defaults, the experiment's own, the overrides.

use std::path::Path;

use rosette::config::{Architecture, Config, Experiment, Skip};

fn parse(text: &str) -> Config {
    Config::parse(Path::new("config.yaml"), text).unwrap_or_else(|e| panic!("{e}"))
}

fn fixture(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(name);
    Config::load(&path).unwrap_or_else(|e| panic!("{e}"))
}

fn repository() -> Config {
    Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).unwrap_or_else(|e| panic!("{e}"))
}

fn overrides(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// The resolved experiment as JSON, by which every setting can be reached by its name.
fn json(experiment: &Experiment) -> serde_json::Value {
    serde_json::to_value(experiment).unwrap()
}

#[test]
fn the_repository_holds_the_five_experiments_of_the_description() {
    let config = repository();
    let names = ["baseline_test", "baseline_full", "higher_lr", "larger_batch", "no_augmentation"];
    assert_eq!(config.names(), names);

    let full = config.resolve("baseline_full", &[]).unwrap();
    assert_eq!(full.description, "Full baseline training");
    assert_eq!(full.model.architecture, Architecture::AttentionUnet);
    assert!(!full.model.use_intensity);
    assert_eq!((full.model.patch_size, full.model.num_classes), (512, 1));
    assert_eq!((full.training.num_epochs, full.training.batch_size, full.training.seed), (100, 4, 42));
    assert_eq!((full.training.learning_rate, full.training.val_split), (0.001, 0.2));
    let augmentation = &full.training.augmentation;
    assert_eq!(
        (augmentation.horizontal_flip, augmentation.vertical_flip, augmentation.rotation),
        (0.5, 0.5, 0.5)
    );
    assert_eq!((augmentation.elastic_transform, augmentation.affine_transform), (0.25, 0.5));
    assert_eq!(augmentation.coarse_dropout, 0.2);

    assert_eq!(config.resolve("baseline_test", &[]).unwrap().training.num_epochs, 1);
    let higher = config.resolve("higher_lr", &[]).unwrap().training;
    assert_eq!((higher.num_epochs, higher.learning_rate, higher.batch_size), (50, 0.01, 4));
    assert_eq!(config.resolve("larger_batch", &[]).unwrap().training.batch_size, 8);
    let none = json(&config.resolve("no_augmentation", &[]).unwrap());
    let none = none["training"]["augmentation"].as_object().unwrap();
    let probabilities: Vec<_> = none.values().filter(|value| value.is_number()).collect();
    assert_eq!(probabilities.len(), 11);
    assert!(probabilities.iter().all(|p| **p == 0.0), "{none:?}");
}

#[test]
fn the_repository_and_the_description_resolve_alike() {
    let (ours, described) = (repository(), fixture("description.yaml"));
    assert_eq!(ours.names(), described.names());
    for name in described.names() {
        assert_eq!(ours.resolve(name, &[]).unwrap(), described.resolve(name, &[]).unwrap());
    }
}

#[test]
fn the_repository_documents_every_setting_with_its_default() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).unwrap();
    let experiment = json(&Experiment::defaults("x"));
    let training = experiment["training"].as_object().unwrap();
    let augmentation = &training["augmentation"];
    let settings = [
        &experiment["model"],
        &experiment["training"],
        &training["data"],
        &training["report"],
        augmentation,
        &augmentation["magnitudes"],
    ];
    for (key, default) in settings.iter().flat_map(|s| s.as_object().unwrap()) {
        if default.is_object() {
            continue;
        }
        let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{key}: ")));
        let line = line.unwrap_or_else(|| panic!("config.yaml lacks `{key}`"));
        let (value, comment) = line.split_once('#').unwrap_or_else(|| panic!("no comment beside `{key}`"));
        assert!(comment.trim().len() > 10, "{line}");
        assert!(value.contains(&default.to_string()), "default {default} in {line}");
    }
}

#[test]
fn an_experiment_merges_deeply_and_leaves_the_others_alone() {
    let config = parse(
        "model: {base_channels: 32}\n\
         default_training: {batch_size: 2, augmentation: {rotation: 0.9, vertical_flip: 0.1}}\n\
         experiments:\n\
         - {name: a, augmentation: {rotation: 0.0}, base_channels: 16, use_intensity: true, skip: pooled}\n\
         - {name: b, model: {patch_size: 64}, augmentation: }\n",
    );
    let (a, b) = (config.resolve("a", &[]).unwrap(), config.resolve("b", &[]).unwrap());
    assert_eq!((a.training.batch_size, b.training.batch_size), (2, 2), "the file's default");
    assert_eq!((a.training.augmentation.rotation, b.training.augmentation.rotation), (0.0, 0.9));
    assert_eq!(a.training.augmentation.vertical_flip, 0.1, "the file's default beside the experiment's own");
    assert_eq!(a.training.augmentation.elastic_transform, 0.25, "the built-in default");
    assert_eq!((a.model.base_channels, b.model.base_channels), (16, 32));
    assert_eq!((a.model.patch_size, b.model.patch_size), (512, 64));
    assert_eq!((a.model.skip, b.model.skip), (Skip::Pooled, Skip::Full));
    assert_eq!((a.input_channels(), b.input_channels()), (3, 2));
}

#[test]
fn built_in_defaults_are_those_of_a_bare_experiment() {
    let config = parse("experiments: [{name: bare}]");
    assert_eq!(config.resolve("bare", &[]).unwrap(), Experiment::defaults("bare"));
    let training = Experiment::defaults("bare").training;
    assert_eq!((training.patience, training.patches_per_sample), (15, 1));
    assert_eq!((training.weight_decay, training.dice_weight, training.foreground_share), (0.01, 0.5, 0.7));
}

#[test]
fn overrides_have_the_last_word_in_their_order() {
    let config = parse("experiments: [{name: x, num_epochs: 7, augmentation: {rotation: 1}}]");
    let texts = overrides(&[
        "num_epochs=1",
        "num_epochs = 3",
        "augmentation.rotation=0.0",
        "default_training.batch_size=2",
        "training.augmentation.coarse_dropout=1",
        "model.base_channels=8",
        "patch_size=32",
        "skip=pooled",
        "use_intensity=true",
        "learning_rate=1e-4",
        "description=a = b [c",
    ]);
    let x = config.resolve("x", &texts).unwrap();
    assert_eq!((x.training.num_epochs, x.training.batch_size), (3, 2));
    assert_eq!((x.training.augmentation.rotation, x.training.augmentation.coarse_dropout), (0.0, 1.0));
    assert_eq!(x.training.augmentation.horizontal_flip, 0.5);
    assert_eq!((x.model.base_channels, x.model.patch_size, x.model.skip), (8, 32, Skip::Pooled));
    assert!(x.model.use_intensity);
    assert_eq!(x.training.learning_rate, 1e-4);
    assert_eq!(x.description, "a = b [c", "what is no YAML is text");
    assert_eq!(config.resolve("x", &[]).unwrap().training.num_epochs, 7, "overrides do not stay");
}

#[test]
fn a_file_of_the_pipeline_is_read_around_its_own_sections() {
    let config = fixture("pipeline.yaml");
    let experiment = config.resolve("with_intensity", &[]).unwrap();
    assert!(experiment.model.use_intensity);
    assert_eq!(experiment.training.learning_rate, 1e-4);
}

#[test]
fn anchors_and_merge_keys_work() {
    let config = parse(
        "experiments:\n\
         - &base {name: a, num_epochs: 5, batch_size: 3}\n\
         - {<<: *base, name: b, num_epochs: 6}\n",
    );
    let b = config.resolve("b", &[]).unwrap();
    assert_eq!((b.training.num_epochs, b.training.batch_size), (6, 3));
}

#[test]
fn spellings_of_numbers_and_booleans_that_yaml_allows_are_read() {
    let text = "experiments: [{name: x, learning_rate: 1E-3, num_epochs: 0x10, use_intensity: yes, weight_decay: 0}]";
    let x = parse(text).resolve("x", &[]).unwrap();
    assert_eq!((x.training.learning_rate, x.training.num_epochs, x.training.weight_decay), (0.001, 16, 0.0));
    assert!(x.model.use_intensity);
}

#[test]
fn a_resolved_experiment_survives_json() {
    let experiment = repository().resolve("higher_lr", &overrides(&["skip=pooled"])).unwrap();
    let text = serde_json::to_string(&experiment).unwrap();
    assert!(
        text.contains("\"skip\":\"pooled\"") && text.contains("\"architecture\":\"attention_unet\""),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Experiment>(&text).unwrap(), experiment);
}

/// What is read from outside must end in an answer: no text may make the parser panic, or swallow the memory.
#[test]
fn hostile_texts_are_answered() {
    let deep = format!("experiments: {}{}", "[".repeat(50_000), "]".repeat(50_000));
    let level =
        |c: u8| format!("{0}: &{0} [{1}]\n", c as char, vec![format!("*{}", (c - 1) as char); 9].join(","));
    let bomb = "a: &a [x]\n".to_string() + &(b'b'..=b'j').map(level).collect::<String>();
    for text in
        [deep, bomb, "\u{0}".into(), "a: !!binary x".into(), "? [a]\n: b".into(), "--- a\n--- b\n".into()]
    {
        let error = Config::parse(Path::new("config.yaml"), &text).expect_err("refused");
        assert_eq!(error.exit_code(), 2);
    }
}
