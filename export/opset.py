"""Rewrites an exported graph in an older opset, for runtimes that read no newer one.

Only what networks of this kind use is rewritten, by the changelog of ONNX's operators
(https://onnx.ai/onnx/operators/). ONNX's checker refuses the rest, and parity compares the embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.errors import InputError, on_one_line

if TYPE_CHECKING:
    import onnx

# operator -> opset from which its axes are an input; an attribute before
AXES_AS_INPUT = {
    **dict.fromkeys(("Squeeze", "Unsqueeze", "ReduceSum"), 13),
    **dict.fromkeys(("ReduceMean", "ReduceL2", "ReduceL1", "ReduceMax", "ReduceMin", "ReduceSumSquare"), 18),
}
# (operator, attribute) -> opset that brought it; without it, the operator does what it does with the default
NEW_ATTRIBUTES = {
    ("BatchNormalization", "training_mode"): 14,
    ("Reshape", "allowzero"): 14,
    ("Split", "num_outputs"): 18,
    ("Cast", "saturate"): 19,
    **{(operator, "noop_with_empty_axes"): opset for operator, opset in AXES_AS_INPUT.items()},
}


def lower_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """`model` in `opset`, or as it is if its own opset is not newer.

    Raises:
        InputError: the network has an operator that `opset` has not.
    """
    import onnx

    (entry,) = (entry for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    if entry.version <= opset:
        return model
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    del lowered.graph.value_info[:]
    del lowered.opset_import[:]
    lowered.opset_import.append(onnx.helper.make_opsetid("", opset))
    lowered.ir_version = onnx.helper.find_min_ir_version_for(lowered.opset_import)
    constants = {tensor.name: tensor for tensor in lowered.graph.initializer}
    for node in lowered.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in lowered.graph.node:
        if opset < AXES_AS_INPUT.get(node.op_type, 0) and len(node.input) > 1 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]])
            node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in axes]))
            del node.input[1:]
        for attribute in list(node.attribute):
            if opset < NEW_ATTRIBUTES.get((node.op_type, attribute.name), 0):
                node.attribute.remove(attribute)
    drop_unused_constants(lowered.graph)
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except Exception as error:  # noqa: BLE001 - checker and shape inference have no common base but Exception
        raise InputError(
            f"the network cannot be written in opset {opset} ({on_one_line(error)[:200]}); take a newer one",
            parameter="opset",
        ) from None
    return lowered


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Removes the constants of `graph` that no node takes any more; ONNX Runtime warns of them."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
