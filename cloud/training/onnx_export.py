"""Write an `EdgeModel` as an ONNX graph: a TreeEnsembleRegressor for each of its ensembles, then the head.

skl2onnx 1.20 cannot convert HistGradientBoosting of scikit-learn 1.9 (it passes a boolean attribute that onnx 1.23
refuses), so the trees are written here. `check` compares the result with scikit-learn, so that a change of
scikit-learn's tree arrays cannot pass unseen. Tried and slower: the three ensembles of an interval in one node with
three targets (6.2 us a row in batches of 100, against 2.2 us for three nodes: onnxruntime 1.32 has a fast path for
one target only).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cloud.training.trees import F32, Booster, Change, EdgeModel, Head, Interval, Percent

OPSET = 17
OPSET_ML = 3
IR_VERSION = 9  # what onnxruntime 1.20, the oldest that edge allows, certainly reads
INPUT = "features"


def to_onnx(model: EdgeModel, inputs: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The graph `features` float32 [n, inputs] -> one float32 [n, 1] for each of the model's outputs."""
    nodes, constants = _head_nodes(model.head)
    graph = helper.make_graph(
        [*_tree_nodes(model), *nodes],
        "voltflow",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in model.outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", OPSET_ML)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="cloud-train")
    helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto)
    return proto


def graph_hash(proto: onnx.ModelProto) -> str:
    """SHA-256 of the graph without metadata: equal for two runs that learnt the same."""
    return hashlib.sha256(proto.graph.SerializeToString(deterministic=True)).hexdigest()


def check(proto: onnx.ModelProto, model: EdgeModel, features: F32) -> dict[str, float]:
    """Run the graph beside scikit-learn: largest absolute difference of each output over these rows."""
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = list(model.outputs)
    answers = dict(zip(names, session.run(names, {INPUT: features}), strict=True))
    expected = model.predict(features)
    return {name: float(np.abs(answers[name][:, 0] - expected[name]).max(initial=0.0)) for name in names}


def float32_below(thresholds: NDArray[np.float64]) -> F32:
    """The largest float32 not above each float64 threshold.

    For a float32 x, `x <= threshold` holds exactly when `x <= float32_below(threshold)`; rounding to the nearest
    would send rows that lie between the two to the other side.

    >>> bool(float32_below(np.array([0.1]))[0] <= 0.1)
    True
    """
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)


def _tree_nodes(model: EdgeModel) -> list[onnx.NodeProto]:
    """A node for each ensemble, its leaves corrected by the model's scale and shift."""
    names = _raw_names(model.head)
    parts = zip(names, model.boosters, model.scale, model.shift, strict=True)
    return [_tree_node(*part) for part in parts]


def _tree_node(output: str, booster: Booster, scale: float, shift: float) -> onnx.NodeProto:
    columns: dict[str, Any] = {}
    trees = [tree for stage in booster._predictors for tree in stage]
    for tree_id, tree in enumerate(trees):
        _add_tree(columns, tree.nodes, tree_id, scale)
    return helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [output],
        name=f"trees_{output}",
        domain="ai.onnx.ml",
        n_targets=1,
        base_values=[_baseline(booster) * scale + shift],
        **columns,
    )


def _raw_names(head: Head) -> tuple[str, ...]:
    if isinstance(head, Interval):
        return ("raw_low", "raw_value", "raw_high")
    return ("raw",) if isinstance(head, Change | Percent) else ("value",)


def _baseline(booster: Booster) -> float:
    return float(np.ravel(booster._baseline_prediction)[0])


def _add_tree(columns: dict[str, Any], nodes: NDArray[Any], tree_id: int, scale: float) -> None:
    """Append one tree of scikit-learn's node array to the attributes of TreeEnsembleRegressor."""
    leaf = nodes["is_leaf"].astype(bool)
    ids = np.arange(len(nodes))
    thresholds = np.where(leaf, 0.0, nodes["num_threshold"])
    added = {
        "nodes_treeids": [tree_id] * len(nodes),
        "nodes_nodeids": ids.tolist(),
        "nodes_featureids": np.where(leaf, 0, nodes["feature_idx"]).tolist(),
        "nodes_modes": ["LEAF" if is_leaf else "BRANCH_LEQ" for is_leaf in leaf],
        "nodes_values": float32_below(thresholds).tolist(),
        "nodes_truenodeids": np.where(leaf, 0, nodes["left"].astype(np.int64)).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, nodes["right"].astype(np.int64)).tolist(),
        "nodes_missing_value_tracks_true": np.where(leaf, 0, nodes["missing_go_to_left"])
        .astype(int)
        .tolist(),
        "target_treeids": [tree_id] * int(leaf.sum()),
        "target_nodeids": ids[leaf].tolist(),
        "target_ids": [0] * int(leaf.sum()),
        "target_weights": (nodes["value"][leaf] * scale).tolist(),
    }
    for name, values in added.items():
        columns.setdefault(name, []).extend(values)


def _head_nodes(head: Head) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes after the trees and the constants they need; see `trees.apply_head` for the same in numpy."""
    if isinstance(head, Change):
        nodes = [
            helper.make_node("Gather", [INPUT, "index"], ["now"], axis=1),
            helper.make_node("Add", ["now", "raw"], ["value"]),
        ]
        return nodes, [_constant("index", np.array([head.index], np.int64))]
    if isinstance(head, Percent):
        nodes = [
            helper.make_node("Sigmoid", ["raw"], ["share"]),
            helper.make_node("Mul", ["share", "hundred"], ["value"]),
        ]
        return nodes, [_constant("hundred", np.array(100.0, np.float32))]
    if isinstance(head, Interval):
        return _interval_nodes(), [
            _constant("one", np.array(1.0, np.float32)),
            _constant("zero", np.array(0.0, np.float32)),
            _constant("cap", np.array(head.cap, np.float32)),
        ]
    return [], []


def _interval_nodes() -> list[onnx.NodeProto]:
    nodes = []
    for name, answer in (("low", "low_free"), ("value", "value"), ("high", "high_free")):
        nodes += [
            helper.make_node("Exp", [f"raw_{name}"], [f"exp_{name}"]),
            helper.make_node("Sub", [f"exp_{name}", "one"], [f"expm1_{name}"]),
            helper.make_node("Clip", [f"expm1_{name}", "zero", "cap"], [answer]),
        ]
    nodes.append(helper.make_node("Min", ["low_free", "value"], ["low"]))
    nodes.append(helper.make_node("Max", ["high_free", "value"], ["high"]))
    return nodes


def _constant(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    return numpy_helper.from_array(values, name)
