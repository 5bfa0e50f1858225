//! Trained models on their way to and from other programs: weights as `.pth` and safetensors, the network as ONNX, a
//! BioImage.IO package; and weights from elsewhere as a model's directory.

mod archive;
mod bioimage;
mod description;
mod export;
mod import;
mod network;
mod trial;

pub use bioimage::Package;
pub use export::{Format, export};
pub use import::{Import, import};
pub use network::onnx_model;
