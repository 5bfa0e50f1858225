//! Goldens of operations from PyTorch: `tests/goldens/ops/<file>.safetensors`, each with the cases of one operation.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use rosette::gpu::Gpu;
use rosette::interop::{Values, read_safetensors};
use rosette::tape::{Op, Shape, Store};

use crate::bench::{Bench, Input, distance};

/// Where the files lie.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ops")
}

/// A tensor of a golden: activations NHWC, parameters as PyTorch shapes them.
#[derive(Debug, Clone)]
pub struct Golden {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Golden {
    /// [N, H, W, C], or a vector's shape.
    pub fn shape(&self) -> Shape {
        Shape::new(self.shape.clone())
    }

    pub fn activation(&self) -> Input {
        Input::activation(self.shape(), self.values.clone())
    }

    pub fn weight(&self) -> Input {
        Input::weight(self.shape(), self.values.clone())
    }

    pub fn constant(&self, store: Store) -> Input {
        Input::constant(self.shape(), store, self.values.clone())
    }

    /// The activation with zeros for channels up to `channels`.
    pub fn padded(&self, channels: usize) -> Input {
        let [n, h, w, c] = self.shape().as_nhwc();
        let pixel = |pixel: &[f32]| [pixel, &vec![0.0; channels - c]].concat();
        let values = self.values.chunks_exact(c).flat_map(pixel).collect();
        Input::activation(Shape::nhwc(n, h, w, channels), values)
    }
}

/// One case of a file.
pub struct Case {
    pub label: String,
    pub tensors: HashMap<String, Golden>,
    pub attributes: serde_json::Value,
}

impl Case {
    /// The same with more in its label.
    pub fn with(self, detail: impl Debug) -> Self {
        Self { label: format!("{} {detail:?}", self.label), ..self }
    }

    pub fn get(&self, name: &str) -> &Golden {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.label))
    }

    pub fn number(&self, attribute: &str) -> f64 {
        self.attributes[attribute].as_f64().unwrap_or_else(|| panic!("{}: {attribute}", self.label))
    }

    /// Runs an operation from the golden's upstream gradient.
    pub fn bench<'a>(&self, gpu: &'a Gpu, op: impl Op + 'static, inputs: &[Input]) -> Bench<'a> {
        let bench = Bench::new(gpu, Box::new(op), inputs, Some(&self.get("dy").values));
        bench.run();
        bench
    }

    /// Compares with the golden of that name, relative to its largest magnitude.
    pub fn check(&self, name: &str, found: &[f32], tolerance: f64) {
        let error = distance(found, &self.get(name).values);
        println!("{:<32} {name:<18} {error:.1e}", self.label);
        assert!(error <= tolerance, "{}: {name} is {error:.1e} off", self.label);
    }
}

/// The cases of `tests/goldens/ops/<file>.safetensors`.
pub fn cases(file: &str) -> Vec<Case> {
    let path = folder().join(format!("{file}.safetensors"));
    let bytes = std::fs::read(&path).expect("a golden");
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let metadata = metadata.metadata().clone().expect("metadata");
    let mut cases: Vec<Case> = (0..metadata["cases"].parse().expect("a number"))
        .map(|place: usize| Case {
            label: format!("{file} case {place}"),
            tensors: HashMap::new(),
            attributes: serde_json::from_str(&metadata[&format!("case{place}")]).expect("attributes"),
        })
        .collect();
    for tensor in read_safetensors(&path).expect("a safetensors file") {
        let (case, name) = tensor.name.split_once('.').expect("case<i>.<name>");
        let place: usize = case.trim_start_matches("case").parse().expect("case<i>");
        let Values::F32(values) = tensor.values else { panic!("{file}: {name} is not f32") };
        cases[place].tensors.insert(name.to_owned(), Golden { shape: tensor.shape, values });
    }
    assert!(!cases.is_empty(), "{file} has cases");
    cases
}
