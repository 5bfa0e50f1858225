#!/bin/sh
# Checks a BioImage.IO package with the format's own tool: the description, then both kinds of weights on the test
# image. `pip install bioimageio.core onnxruntime 'pydantic<2.12'` (bioimageio.spec 0.5.12.0 does not run with pydantic
# 2.12 and later), and torch for the state dict.
#
#     tests/python/check_package.sh model.zip
set -e
for weights in onnx pytorch_state_dict; do
    bioimageio test "$1" --weight-format "$weights"
done
