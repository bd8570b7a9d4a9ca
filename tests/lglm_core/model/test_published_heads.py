"""ADD-GCN, SS-GRL and VACIT against their papers' equations, and at the extremes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lglm_core.model.config import head_config
from lglm_core.model.head import ImageSide, LabelKnowledge
from tests.lglm_core.model.published_heads import (
    Array,
    C,
    as_if_trained,
    both_conditionings,
    every_head,
    image_side_of,
    knowledge,
    maps,
    seeded,
)


@every_head
@both_conditionings
@pytest.mark.parametrize(("labels", "size"), [(2, (1, 1)), (5, (3, 4)), (30, (7, 7))])
def test_logits_have_a_column_per_label_whatever_the_map(
    name: str, conditioning: str, labels: int, size: tuple[int, int]
):
    image_side = image_side_of(name, knowledge(labels), conditioning=conditioning)
    output = image_side(maps(4, size))
    assert output.logits.shape == (4, labels)
    assert (output.penalty is None) == (name != "vacit")
    image_side.eval()
    assert image_side(maps(1, size)).logits.shape == (1, labels)
    assert image_side(maps(3, size)).penalty is None


@every_head
@both_conditionings
def test_gradients_reach_every_parameter_and_the_map(name: str, conditioning: str):
    image_side = as_if_trained(image_side_of(name, conditioning=conditioning))
    feature_map = maps(6).requires_grad_()
    output = image_side(feature_map)
    loss = output.logits.square().sum()
    loss.backward()
    for parameter, tensor in [*image_side.named_parameters(), ("map", feature_map)]:
        assert tensor.grad is not None and tensor.grad.isfinite().all(), parameter
        assert tensor.grad.abs().max() > 1e-6, parameter


@every_head
def test_a_conditioned_head_starts_at_the_prior_and_has_gradients_there(name: str):
    image_side = image_side_of(name)
    log_odds = torch.linspace(-4, 1, C)
    image_side.start_at_prior(log_odds)
    logits = image_side(maps(6)).logits
    torch.testing.assert_close(logits, log_odds.expand(6, C))
    logits[:, 0].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 and p.ndim > 1 for p in image_side.parameters())


@every_head
def test_the_text_form_keeps_its_published_start(name: str):
    image_side = image_side_of(name, conditioning="text")
    before = image_side(maps(6)).logits
    image_side.start_at_prior(torch.full((C,), 3.0))
    assert torch.equal(image_side(maps(6)).logits, before)
    assert before.std() > 0


@every_head
@both_conditionings
def test_bfloat16_is_finite_forwards_and_backwards(name: str, conditioning: str):
    image_side = as_if_trained(image_side_of(name, knowledge(30), conditioning=conditioning))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = image_side(maps(8).bfloat16())
    loss = output.logits.float().square().mean()
    if output.penalty is not None:
        assert output.penalty.dtype == torch.float32
        loss = loss + output.penalty.mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in image_side.parameters())


@every_head
@both_conditionings
def test_the_score_of_a_picture_does_not_depend_on_its_batch_in_eval_mode(name: str, conditioning: str):
    image_side = as_if_trained(image_side_of(name, conditioning=conditioning)).eval()
    together = image_side(maps(5)).logits
    alone = torch.cat([image_side(one).logits for one in maps(5).split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@every_head
def test_dropout_is_active_only_in_training(name: str):
    image_side = as_if_trained(image_side_of(name, conditioning="text", feature_dropout=0.5))
    assert not torch.equal(image_side(maps(6)).logits, image_side(maps(6)).logits)
    image_side.eval()
    assert torch.equal(image_side(maps(6)).logits, image_side(maps(6)).logits)


@every_head
@both_conditionings
def test_a_random_problem_is_learned(name: str, conditioning: str):
    """Each label is a pattern of channels at some position; the loss of the prior is 4.4 nats."""
    patterns = torch.randn(8, 24, generator=seeded(5)).relu()
    random = seeded(6)
    targets = (torch.rand(256, 8, generator=random) < 0.25).float()
    positions = F.one_hot(torch.randint(0, 9, (256, 8), generator=random), 9).float()
    feature_map = torch.einsum("bc,bcp,cd->bdp", targets, positions, 2 * patterns)
    feature_map = (feature_map + 0.1 * torch.rand(feature_map.shape, generator=random)).view(256, 24, 3, 3)
    counts = (targets.T @ targets).long()
    known = LabelKnowledge(8, torch.randn(8, 7, generator=random), counts)
    image_side = image_side_of(name, known, feature_width=24, conditioning=conditioning, **LEARNERS[name])
    image_side.start_at_prior(targets.mean(dim=0).logit())
    prior = F.binary_cross_entropy_with_logits(targets.mean(dim=0).logit().expand(256, 8), targets) * 8
    weight = head_config(name).penalty_weight("sum", 8)
    optimizer = torch.optim.AdamW(image_side.parameters(), lr=3e-2 if name == "vacit" else 3e-3)
    losses = []
    for step in range(100):
        chosen = slice(step % 4 * 64, step % 4 * 64 + 64)
        inputs, wanted = feature_map[chosen], targets[chosen]
        if image_side.wants_mirror:
            inputs, wanted = torch.cat([inputs, inputs.flip(3)]), wanted.repeat(2, 1)
        output = image_side(inputs)
        loss = F.binary_cross_entropy_with_logits(output.logits, wanted, reduction="none").sum(1).mean()
        penalty = 0 if output.penalty is None else weight * output.penalty.mean()
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.5 * prior


LEARNERS: dict[str, dict[str, Any]] = {
    "add-gcn": {"width": 64},
    "ss-grl": {"d_1": 64, "d_2": 64, "output_width": 64, "state_width": None},
    "vacit": {},
}


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x)


def values_of(image_side: ImageSide) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in image_side.state_dict().items()}


def standardised(x: Array, p: dict[str, Array]) -> Array:
    """Standardise x [D, hw] by the running statistics, where the head has them."""
    if "norm.norm.running_mean" not in p:
        return x
    return (x - p["norm.norm.running_mean"][:, None]) / np.sqrt(p["norm.norm.running_var"][:, None] + 1e-5)


def reference_add_gcn(feature_map: Array, p: dict[str, Array], _: LabelKnowledge, conditioned: bool) -> Array:
    """Score one picture and one label at a time."""
    rows = []
    for picture in feature_map:
        x = standardised(picture.reshape(len(picture), -1), p)
        labels, positions = len(p["activation_maps.weight"]), x.shape[1]
        m = p["activation_maps.weight"] @ x
        transformed = p["transform.weight"] @ x + p["transform.bias"][:, None]
        v = np.array(
            [sum(sigmoid(m[c, q]) * transformed[:, q] for q in range(positions)) for c in range(labels)]
        )
        if conditioned:
            v /= positions
        received = leaky(p["static_graph.weight"] @ v)
        h = v + leaky(received @ p["static_layer.weight"].T + p["static_layer.bias"])
        g = p["picture_layer.weight"] @ h.mean(axis=0)
        g = (g - p["picture_norm.running_mean"]) / np.sqrt(p["picture_norm.running_var"] + 1e-5)
        g = leaky(g * p["picture_norm.weight"] + p["picture_norm.bias"])
        z = np.zeros_like(v)
        pair_weight = np.hstack([p["graph_from_picture.weight"], p["graph_from_label.weight"]])
        for c in range(labels):
            edges = sigmoid(pair_weight @ np.concatenate([g, h[c]]) + p["graph_from_label.bias"])
            messages = edges @ h / (labels if conditioned else 1)
            z[c] = v[c] + leaky(p["dynamic_layer.weight"] @ leaky(messages) + p["dynamic_layer.bias"])
        related = (z * p["classifiers.weight"]).sum(axis=1) + p["classifiers.bias"]
        rows.append((m.max(axis=1) + related) / 2)
    return np.array(rows)


def reference_ss_grl(
    feature_map: Array, p: dict[str, Array], known: LabelKnowledge, conditioned: bool
) -> Array:
    assert known.counts is not None and known.vectors is not None
    counts, words = known.counts.numpy(), known.vectors.double().numpy()
    labels = len(counts)
    graph = np.zeros((labels, labels))
    for one in range(labels):
        for other in range(labels):
            if counts[one, one]:
                graph[one, other] = counts[one, other] / counts[one, one]
    back = graph.T.copy()
    if conditioned:
        words = words / np.sqrt((words**2).mean(axis=1, keepdims=True))
        graph /= np.maximum(graph.sum(axis=1, keepdims=True), 1)
        back /= np.maximum(back.sum(axis=1, keepdims=True), 1)
    w_z, w_r, w_h = np.split(p["interaction.from_messages.weight"], 3)
    b_z, b_r, b_h = np.split(p["interaction.from_messages.bias"], 3)
    u_z, u_r = np.split(p["interaction.from_state.weight"], 2)
    u_h = p["interaction.from_kept.weight"]
    rows = []
    for picture in feature_map:
        x = standardised(picture.reshape(len(picture), -1), p)
        start = []
        for c in range(labels):
            v = p["decoupling.from_word.weight"] @ words[c]
            joined = np.tanh((p["decoupling.from_position.weight"] @ x) * v[:, None])
            scores = (p["decoupling.coefficient.weight"] @ (p["decoupling.joined.weight"] @ joined))[0]
            attention = np.exp(scores - scores.max())
            start.append(x @ (attention / attention.sum()))
        f = np.array(start) @ p["projection.weight"].T + p["projection.bias"]
        h = f.copy()
        for _ in range(3):
            messages = np.hstack([graph @ h, back @ h])
            z = sigmoid(messages @ w_z.T + h @ u_z.T + b_z)
            r = sigmoid(messages @ w_r.T + h @ u_r.T + b_r)
            candidate = np.tanh(messages @ w_h.T + (r * h) @ u_h.T + b_h)
            h = (1 - z) * h + z * candidate
        o = np.tanh(np.hstack([h, f]) @ p["output.weight"].T + p["output.bias"])
        rows.append((o * p["classifiers.weight"]).sum(axis=1) + p["classifiers.bias"])
    return np.array(rows)


def reference_vacit(feature_map: Array, p: dict[str, Array], _: LabelKnowledge, conditioned: bool) -> Array:
    """Return logits as the mean of each label's class activation map, plus its bias."""
    rows = []
    for picture in feature_map:
        activation = p["linear.weight"] @ standardised(picture.reshape(len(picture), -1), p)
        rows.append(activation.mean(axis=1) + p["linear.bias"])
    return np.array(rows)


REFERENCES: dict[str, Callable[..., Array]] = {
    "add-gcn": reference_add_gcn,
    "ss-grl": reference_ss_grl,
    "vacit": reference_vacit,
}


@every_head
@both_conditionings
@pytest.mark.parametrize("seed", range(3))
def test_logits_follow_the_equations(name: str, conditioning: str, seed: int):
    image_side = as_if_trained(image_side_of(name, conditioning=conditioning), seed).eval()
    if conditioning == "text":
        image_side = image_side.double()  # standardised features are always float32
    feature_map = maps(4)
    expected = REFERENCES[name](
        feature_map.double().numpy(), values_of(image_side), knowledge(), conditioning == "conditioned"
    )
    with torch.no_grad():
        logits = image_side(feature_map.to(next(image_side.parameters()).dtype)).logits
    assert expected.std() > 0.1  # not a constant that anything would match
    np.testing.assert_allclose(logits.double().numpy(), expected, rtol=1e-6, atol=1e-6)


BY_LABEL = {
    "add-gcn": (
        *("activation_maps.weight", "graph_from_picture.weight", "graph_from_label.weight"),
        *("graph_from_label.bias", "classifiers.weight", "classifiers.bias"),
    ),
    "ss-grl": ("classifiers.weight", "classifiers.bias"),
    "vacit": ("linear.weight", "linear.bias"),
}


@every_head
@both_conditionings
def test_permuting_the_labels_permutes_the_logits_and_nothing_else(name: str, conditioning: str):
    known = knowledge()
    assert known.vectors is not None and known.counts is not None
    order = torch.tensor([3, 0, 4, 2, 1])
    moved = LabelKnowledge(C, known.vectors[order], known.counts[order][:, order])
    one = as_if_trained(image_side_of(name, known, conditioning=conditioning)).eval()
    other = image_side_of(name, moved, conditioning=conditioning).eval()
    fixed = {"decoupling.vectors", "interaction.graph"}  # the facts about the labels
    state = {key: value for key, value in one.state_dict().items() if key not in fixed}
    state |= {key: state[key][order] for key in BY_LABEL[name]}
    if name == "add-gcn":
        state["static_graph.weight"] = state["static_graph.weight"][order][:, order]
    missing = other.load_state_dict(state, strict=False).missing_keys
    assert set(missing) == (fixed if name == "ss-grl" else set())
    logits = one(maps(4)).logits
    torch.testing.assert_close(other(maps(4)).logits, logits[:, order], rtol=1e-5, atol=1e-5)
    assert (logits[:, order] - logits).abs().max() > 0.1
