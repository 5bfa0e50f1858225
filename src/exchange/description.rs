//! The description of a package, in version 0.5.12 of the BioImage.IO model specification, and its documentation.

use serde_json::{Value, json};

use super::bioimage::{Content, names};
use super::network::{INPUT, OUTPUT, channel_meanings, channel_names, skip_word};
use crate::error::{Error, Result};
use crate::inference::Model;
use crate::interop::onnx::OPSET_VERSION;

const FORMAT_VERSION: &str = "0.5.12";
/// The version that the state dict and its class are checked with.
const PYTORCH_VERSION: &str = "1.13.0";

/// `rdf.yaml`.
pub(super) fn description(model: &Model, content: &Content) -> Result<String> {
    let authors: Vec<Value> = content.package.authors.iter().map(|author| person(author)).collect();
    let all = json!({
        "type": "model",
        "format_version": FORMAT_VERSION,
        "name": content.name,
        "description": "Finds multicellular rosettes in images of epithelia: from the cells' segmentation to the \
            probability of a rosette at each pixel. An Attention U-Net, trained with rosette.",
        "authors": authors,
        "cite": [{
            "text": "Oktay et al. 2018: Attention U-Net: Learning Where to Look for the Pancreas",
            "doi": "10.48550/arXiv.1804.03999",
        }],
        "license": content.package.licence,
        "documentation": file(content, names::DOCUMENTATION),
        "covers": [file(content, names::COVER)],
        "tags": ["segmentation", "2d", "epithelium", "cells", "attention-unet", "pytorch", "onnx"],
        "attachments": [file(content, names::RECORD)],
        "timestamp": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
        "inputs": [input(model, content)],
        "outputs": [output(content)],
        "weights": weights(model, content),
        "config": config(model),
    });
    serde_saphyr::to_string(&all).map_err(|e| Error::failure(format!("{}: {e}", names::DESCRIPTION)))
}

fn file(content: &Content, name: &str) -> Value {
    json!({ "source": name, "sha256": content.sha256(name) })
}

/// `Given Family`, or `Given Family @github_user`.
fn person(author: &str) -> Value {
    match author.rsplit_once(" @") {
        Some((name, user)) => json!({ "name": name.trim(), "github_user": user.trim() }),
        None => json!({ "name": author.trim() }),
    }
}

fn side_axis(id: &str, size: Value) -> Value {
    json!({ "type": "space", "id": id, "size": size })
}

fn input(model: &Model, content: &Content) -> Value {
    let channels = channel_names(model.net.spec().in_channels);
    let sides = json!({ "min": 16, "step": 16 });
    json!({
        "id": INPUT,
        "description": format!("{}; 0 or 1, intensity from 0 to 1", channels.join(", ")),
        "axes": [
            { "type": "batch" },
            { "type": "channel", "channel_names": channels },
            side_axis("y", sides.clone()),
            side_axis("x", sides),
        ],
        "test_tensor": file(content, names::INPUT),
        "sample_tensor": file(content, names::SAMPLE_INPUT),
        "data": { "type": "float32", "range": [0.0, 1.0] },
    })
}

fn output(content: &Content) -> Value {
    let like = |axis: &str| json!({ "tensor_id": INPUT, "axis_id": axis });
    json!({
        "id": OUTPUT,
        "description": "the probability of a rosette",
        "axes": [
            { "type": "batch" },
            { "type": "channel", "channel_names": ["rosette"] },
            side_axis("y", like("y")),
            side_axis("x", like("x")),
        ],
        "test_tensor": file(content, names::OUTPUT),
        "sample_tensor": file(content, names::SAMPLE_OUTPUT),
        "data": { "type": "float32", "range": [0.0, 1.0] },
    })
}

fn weights(model: &Model, content: &Content) -> Value {
    let spec = model.net.spec();
    json!({
        "pytorch_state_dict": {
            "source": names::STATE_DICT,
            "sha256": content.sha256(names::STATE_DICT),
            "pytorch_version": PYTORCH_VERSION,
            "architecture": {
                "source": names::ARCHITECTURE,
                "sha256": content.sha256(names::ARCHITECTURE),
                "callable": "RosetteUNet",
                "kwargs": {
                    "in_channels": spec.in_channels,
                    "base_channels": spec.base_channels,
                    "skip": skip_word(spec.skip),
                },
            },
        },
        "onnx": {
            "source": names::ONNX,
            "sha256": content.sha256(names::ONNX),
            "opset_version": OPSET_VERSION,
            "parent": "pytorch_state_dict",
        },
    })
}

fn config(model: &Model) -> Value {
    let best = model.record.as_ref().and_then(|record| record.best.as_ref());
    json!({
        "bioimageio": {
            "architecture_type": "Attention U-Net",
            "task": "segmentation",
            "target_structure": ["multicellular rosettes"],
            "model_parameter_count": model.net.parameter_count(),
        },
        "rosette": {
            "version": env!("CARGO_PKG_VERSION"),
            "threshold": model.threshold,
            "window": model.window_px,
            "validation_f1": best.map(|best| best.val_f1),
            "validation_iou": best.map(|best| best.val_iou),
        },
    })
}

/// `README.md`.
pub(super) fn documentation(model: &Model, name: &str) -> String {
    let spec = model.net.spec();
    let channels: String = channel_names(spec.in_channels)
        .iter()
        .zip(channel_meanings(spec.in_channels))
        .map(|(name, meaning)| format!("- {name}: {meaning}\n"))
        .collect();
    let best = model.record.as_ref().and_then(|record| record.best.as_ref());
    let scores = best.map_or_else(
        || "The scores of its validation are not known.".to_string(),
        |best| {
            format!(
                "On its validation images the model reached F1 {:.4}, IoU {:.4}, precision {:.4} and recall {:.4}, the \
                 mean over images at a threshold of 0.5 (epoch {}).",
                best.val_f1, best.val_iou, best.val_precision, best.val_recall, best.epoch
            )
        },
    );
    format!(
        "# {name}\n\n\
         An Attention U-Net (Oktay et al. 2018) that finds multicellular rosettes in images of epithelia. From an image \
         of cell labels it gives the probability of a rosette at each pixel.\n\n\
         ## Input\n\n\
         [batch, {count}, height, width], 32-bit floats; height and width are multiples of 16. Channels:\n\n{channels}\n\
         ## Output\n\n\
         [batch, 1, height, width]: the probability of a rosette. Above {threshold} a pixel counts as one.\n\n\
         It was trained on patches of {window} x {window} px. Larger images are best predicted in windows of that size \
         that overlap by half and are averaged, those of their border counting less.\n\n\
         ## Validation\n\n\
         {scores} To validate it on images of your own, compare the thresholded output with a manual annotation of \
         rosettes: F1 and intersection over union by pixel, and how many rosettes are overlapped by more than half.\n\n\
         ## PyTorch\n\n\
         `{architecture}` has the class that `{state_dict}` loads into: \
         `RosetteUNet(in_channels={count}, base_channels={base}, skip=\"{skip}\")`. `{record}` says how it was trained.\n",
        count = spec.in_channels,
        threshold = model.threshold,
        window = model.window_px,
        architecture = names::ARCHITECTURE,
        state_dict = names::STATE_DICT,
        record = names::RECORD,
        base = spec.base_channels,
        skip = skip_word(spec.skip),
    )
}
