//! Splits, against scikit-learn and numpy (see tests/fixtures/split/generate.py), and the manifest.

use std::path::PathBuf;

use rosette::cli::split::{SplitArgs, split as split_into};
use rosette::data::mt19937::Mt19937;
use rosette::data::split::{Manifest, fold, split};

#[derive(serde::Deserialize)]
struct Goldens {
    splits: Vec<SplitGolden>,
    permutations: Vec<PermutationGolden>,
}

#[derive(serde::Deserialize)]
struct SplitGolden {
    n: usize,
    test_size: f64,
    seed: u64,
    train: Vec<String>,
    val: Vec<String>,
}

#[derive(serde::Deserialize)]
struct PermutationGolden {
    n: u32,
    seed: u32,
    order: Vec<u32>,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("fixtures/split/splits.json")).unwrap()
}

/// T1_1, T1_2, T2_1 ... as the generator has them.
fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("T{}_{}", 1 + i / 2, 1 + i % 2)).collect()
}

#[test]
fn permutations_are_numpys() {
    for golden in goldens().permutations {
        assert_eq!(Mt19937::new(golden.seed).permutation(golden.n), golden.order, "seed {}", golden.seed);
    }
}

#[derive(serde::Deserialize)]
struct FoldGolden {
    n: usize,
    folds: usize,
    seed: u32,
    val: Vec<Vec<String>>,
}

#[test]
fn folds_are_scikit_learns_whatever_the_order() {
    let goldens: Vec<FoldGolden> = serde_json::from_str(include_str!("fixtures/split/folds.json")).unwrap();
    assert!(goldens.len() >= 5);
    for golden in goldens {
        let mut names = names(golden.n);
        names.reverse();
        let folds = fold(&names, golden.folds, golden.seed).unwrap();
        let val: Vec<&Vec<String>> = folds.iter().map(|split| &split.val).collect();
        assert_eq!(val, golden.val.iter().collect::<Vec<_>>(), "n {}, seed {}", golden.n, golden.seed);
        for split in &folds {
            let mut all = [&split.train[..], &split.val].concat();
            assert!(split.train.is_sorted());
            all.sort();
            names.sort();
            assert_eq!(all, names, "each sample trains or validates");
        }
    }
    let said = fold(&names(3), 4, 0).unwrap_err().to_string();
    assert!(said.contains("folds: expected at most the number of samples, 3, found 4"), "{said}");
}

#[test]
fn splits_are_scikit_learns_whatever_the_order() {
    let goldens = goldens().splits;
    assert!(goldens.len() >= 10);
    for golden in goldens {
        let mut names = names(golden.n);
        names.reverse();
        let ours = split(&names, golden.test_size, golden.seed).unwrap();
        assert_eq!(ours.train, golden.train, "n {}, seed {}", golden.n, golden.seed);
        assert_eq!(ours.val, golden.val, "n {}, seed {}", golden.n, golden.seed);
    }
}

#[test]
fn what_cannot_be_split_is_said() {
    let twice = ["T1_1", "T2_1", "T1_1"].map(String::from);
    let cases: [(&[String], f64, u64, &str); 9] = [
        (&[], 0.2, 42, "at least 2 samples"),
        (&names(1), 0.2, 42, "at least 2 samples"),
        (&twice, 0.2, 42, "'T1_1' twice"),
        (&["T1_1".to_string(), String::new()], 0.2, 42, "an empty name"),
        (&names(4), 0.0, 42, "above 0 and below 1"),
        (&names(4), 1.0, 42, "above 0 and below 1"),
        (&names(4), f64::NAN, 42, "above 0 and below 1"),
        (&names(4), 0.8, 42, "all of them"),
        (&names(4), 0.2, 1 << 32, "4294967296"),
    ];
    for (names, size, seed, text) in cases {
        let error = split(names, size, seed).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_manifest_has_the_pipelines_keys_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/split_manifest.json");
    let manifest = Manifest::create(&names(8), 0.25, 7).unwrap();
    manifest.write(&path).unwrap();
    assert_eq!(Manifest::read(&path).unwrap(), manifest);
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    let expected = [
        "split_created",
        "total_samples",
        "train_samples",
        "val_samples",
        "test_size",
        "random_state",
        "sample_order_hash",
        "train_sample_list",
        "val_sample_list",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (&json["total_samples"], &json["train_samples"], &json["val_samples"]),
        (&8.into(), &6.into(), &2.into())
    );
    let created = json["split_created"].as_str().unwrap();
    assert!(created.parse::<jiff::Timestamp>().is_ok(), "{created} is not ISO 8601");
}

#[test]
fn the_hash_tells_sets_apart_and_not_orders() {
    let hash = |names: &[String], seed| Manifest::create(names, 0.25, seed).unwrap().sample_order_hash;
    let mut reversed = names(8);
    reversed.reverse();
    assert_eq!(hash(&names(8), 1), hash(&reversed, 2));
    assert_ne!(hash(&names(8), 1), hash(&names(9), 1));
    // printf 'T1_1\nT1_2' | sha256sum
    let expected = "25d353cdc10263da305a5dd1864a40a64709536cde6e233e5acc6131ab498f14";
    assert_eq!(hash(&names(2), 1), expected);
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: SplitArgs,
}

#[test]
fn the_documented_command_line_parses() {
    let line = "split --samples T1_1 T1_2 T2_1 T2_2 --config-dir ../../results/model_training \
                --config-file config.yaml --experiment-name baseline_test \
                --output-name split_manifest_baseline_test.json";
    let parsed = <Cli as clap::Parser>::try_parse_from(line.split_whitespace()).unwrap().args;
    assert_eq!(parsed.samples, names(4));
    assert_eq!((parsed.test_size, parsed.random_state), (None, None));
    let manifest = "../../results/model_training/split_manifest_baseline_test.json";
    assert_eq!(parsed.manifest_path(), PathBuf::from(manifest));
}

/// A manifest as the Python pipeline may have written it, after `change`.
fn manifest_error(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut json = serde_json::to_value(Manifest::create(&names(8), 0.25, 7).unwrap()).unwrap();
    change(&mut json);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("split.json");
    std::fs::write(&path, json.to_string()).unwrap();
    Manifest::read(&path).map_or_else(|e| e.to_string(), |_| String::new())
}

#[test]
fn a_manifest_that_cannot_be_meant_is_refused() {
    let lacking = manifest_error(|json| {
        json.as_object_mut().unwrap().remove("val_sample_list");
    });
    assert!(lacking.contains("the key 'val_sample_list'"), "{lacking}");
    let shared = manifest_error(|json| {
        let name = json["train_sample_list"][0].clone();
        json["val_sample_list"][0] = name;
    });
    assert!(shared.contains("in train_sample_list already"), "{shared}");
    let empty = manifest_error(|json| {
        json["val_sample_list"] = serde_json::json!([]);
        json["val_samples"] = 0.into();
    });
    assert!(empty.contains("at least one"), "{empty}");
    let count = manifest_error(|json| json["train_samples"] = 5.into());
    assert!(count.contains("(5)") && count.contains("found 6"), "{count}");
    let kind = manifest_error(|json| json["test_size"] = "a fifth".into());
    assert!(kind.contains("a fifth"), "{kind}");
    let list = manifest_error(|json| *json = serde_json::json!([1, 2]));
    assert!(list.contains("a JSON object"), "{list}");
}

#[test]
fn foreign_hashes_and_further_keys_are_passed_over() {
    assert_eq!(manifest_error(|json| json["sample_order_hash"] = (-12345).into()), "");
    assert_eq!(manifest_error(|json| json["created_by"] = "create_split.py".into()), "");
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("split.json");
    assert!(Manifest::read(&path).unwrap_err().to_string().contains("split.json"));
    std::fs::write(&path, "{\"total_samples\": ").unwrap();
    let error = Manifest::read(&path).unwrap_err().to_string();
    assert!(error.contains("split.json") && error.contains("JSON"), "{error}");
}

#[test]
fn the_command_writes_where_it_is_told_and_arguments_win() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = SplitArgs {
        samples: names(10),
        config_dir: dir.path().to_path_buf(),
        config_file: PathBuf::from("config.yaml"),
        experiment_name: "baseline_test".to_string(),
        output_name: PathBuf::from("split_manifest_baseline_test.json"),
        test_size: None,
        random_state: None,
    };
    split_into(&args, 0.2, 42).unwrap();
    let read = || Manifest::read(&dir.path().join("split_manifest_baseline_test.json")).unwrap();
    assert_eq!((read().val_samples, read().random_state, read().test_size), (2, 42, 0.2));
    (args.test_size, args.random_state) = (Some(0.5), Some(3));
    split_into(&args, 0.2, 42).unwrap();
    assert_eq!((read().val_samples, read().random_state, read().test_size), (5, 3, 0.5));
    // The configuration: as given, else beside the manifests.
    assert_eq!(args.config_path(), PathBuf::from("config.yaml"));
    args.config_file = PathBuf::from("only_there.yaml");
    std::fs::write(dir.path().join("only_there.yaml"), "").unwrap();
    assert_eq!(args.config_path(), dir.path().join("only_there.yaml"));
}
