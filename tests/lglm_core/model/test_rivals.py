"""ADD-GCN, SS-GRL and VACIT against their papers' equations, and at the extremes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lglm_core.model import add_gcn, ss_grl
from lglm_core.model.config import AddGcnConfig, SsGrlConfig, VacitConfig, head_config
from lglm_core.model.head import ImageSide, LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.model.recompute import in_chunks

Array = np.ndarray
SMALL: dict[str, dict[str, Any]] = {
    "add-gcn": {"width": 12},
    "ss-grl": {"d_1": 14, "d_2": 6, "output_width": 11, "state_width": 9},
    "vacit": {},
}
RIVALS = tuple(SMALL)
CONDITIONINGS = ("conditioned", "text")
D, C = 10, 5
both_ways = pytest.mark.parametrize("conditioning", CONDITIONINGS)
every_rival = pytest.mark.parametrize("name", RIVALS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def knowledge(labels: int = C) -> LabelKnowledge:
    """Drawn vectors, and the counts of drawn pictures; the last label has no picture."""
    targets = (torch.rand(50, labels, generator=rng(1)) < 0.4).long()
    targets[:, -1] = 0
    return LabelKnowledge(labels, 5 * torch.randn(labels, 7, generator=rng(2)), targets.T @ targets)


def maps(pictures: int, size: tuple[int, int] = (3, 4), width: int = D) -> Tensor:
    """Drawn feature maps with values as behind a ReLU, 0 to about 6."""
    return 2 * torch.randn(pictures, width, *size, generator=rng(3)).relu()


def side(name: str, known: LabelKnowledge | None = None, feature_width: int = D, **options: Any) -> Any:
    torch.manual_seed(0)
    config = head_config(name, SMALL[name] | options)
    return build_head(name, config, feature_width, known or knowledge()).image_side


@torch.no_grad()
def as_if_trained(image_side: ImageSide, seed: int = 4) -> Any:
    """Give every weight and running statistic a value that matters to the logits."""
    draws = rng(seed)
    for tensor in image_side.parameters():
        scale = tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.3
        tensor.copy_(scale * torch.randn(tensor.shape, generator=draws))
    for module in image_side.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draws))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=draws) + 0.5)
    return image_side


# Shapes, gradients, extremes


@every_rival
@both_ways
@pytest.mark.parametrize(("labels", "size"), [(2, (1, 1)), (5, (3, 4)), (30, (7, 7))])
def test_logits_have_a_column_per_label_whatever_the_map(
    name: str, conditioning: str, labels: int, size: tuple[int, int]
):
    image_side = side(name, knowledge(labels), conditioning=conditioning)
    prediction = image_side(maps(4, size))
    assert prediction.logits.shape == (4, labels)
    assert (prediction.penalty is None) == (name != "vacit")
    image_side.eval()
    assert image_side(maps(1, size)).logits.shape == (1, labels)
    assert image_side(maps(3, size)).penalty is None


@every_rival
@both_ways
def test_gradients_reach_every_parameter_and_the_map(name: str, conditioning: str):
    image_side = as_if_trained(side(name, conditioning=conditioning))
    feature_map = maps(6).requires_grad_()
    prediction = image_side(feature_map)
    loss = prediction.logits.square().sum()
    loss.backward()
    for parameter, tensor in [*image_side.named_parameters(), ("map", feature_map)]:
        assert tensor.grad is not None and tensor.grad.isfinite().all(), parameter
        assert tensor.grad.abs().max() > 1e-6, parameter


@every_rival
def test_a_conditioned_head_learns_from_its_start_and_starts_at_the_prior(name: str):
    image_side = side(name)
    log_odds = torch.linspace(-4, 1, C)
    image_side.start_at_prior(log_odds)
    logits = image_side(maps(6)).logits
    torch.testing.assert_close(logits, log_odds.expand(6, C))
    logits[:, 0].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 and p.ndim > 1 for p in image_side.parameters())


@every_rival
def test_the_text_form_is_left_at_its_published_start(name: str):
    image_side = side(name, conditioning="text")
    before = image_side(maps(6)).logits
    image_side.start_at_prior(torch.full((C,), 3.0))
    assert torch.equal(image_side(maps(6)).logits, before)
    assert before.std() > 0


@every_rival
@both_ways
def test_bfloat16_is_finite_forwards_and_backwards(name: str, conditioning: str):
    image_side = as_if_trained(side(name, knowledge(30), conditioning=conditioning))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = image_side(maps(8).bfloat16())
    loss = prediction.logits.float().square().mean()
    if prediction.penalty is not None:
        assert prediction.penalty.dtype == torch.float32
        loss = loss + prediction.penalty.mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in image_side.parameters())


@every_rival
@both_ways
def test_a_picture_is_scored_on_its_own_in_eval_mode(name: str, conditioning: str):
    image_side = as_if_trained(side(name, conditioning=conditioning)).eval()
    together = image_side(maps(5)).logits
    alone = torch.cat([image_side(one).logits for one in maps(5).split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@every_rival
def test_dropout_works_in_training_alone(name: str):
    image_side = as_if_trained(side(name, conditioning="text", feature_dropout=0.5))
    assert not torch.equal(image_side(maps(6)).logits, image_side(maps(6)).logits)
    image_side.eval()
    assert torch.equal(image_side(maps(6)).logits, image_side(maps(6)).logits)


@every_rival
@both_ways
def test_a_drawn_problem_is_learned(name: str, conditioning: str):
    """Each label is a pattern of channels at some position; the prior alone costs 4.4 nats."""
    patterns = torch.randn(8, 24, generator=rng(5)).relu()
    draws = rng(6)
    targets = (torch.rand(256, 8, generator=draws) < 0.25).float()
    positions = F.one_hot(torch.randint(0, 9, (256, 8), generator=draws), 9).float()
    feature_map = torch.einsum("bc,bcp,cd->bdp", targets, positions, 2 * patterns)
    feature_map = (feature_map + 0.1 * torch.rand(feature_map.shape, generator=draws)).view(256, 24, 3, 3)
    counts = (targets.T @ targets).long()
    known = LabelKnowledge(8, torch.randn(8, 7, generator=draws), counts)
    image_side = side(name, known, feature_width=24, conditioning=conditioning, **LEARNERS[name])
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
        prediction = image_side(inputs)
        loss = F.binary_cross_entropy_with_logits(prediction.logits, wanted, reduction="none").sum(1).mean()
        own = 0 if prediction.penalty is None else weight * prediction.penalty.mean()
        optimizer.zero_grad()
        (loss + own).backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.5 * prior


LEARNERS: dict[str, dict[str, Any]] = {
    "add-gcn": {"width": 64},
    "ss-grl": {"d_1": 64, "d_2": 64, "output_width": 64, "state_width": None},
    "vacit": {},
}

# The papers' equations, in NumPy and float64


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x)


def values_of(image_side: ImageSide) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in image_side.state_dict().items()}


def standardised(x: Array, p: dict[str, Array]) -> Array:
    """x [D, hw] by running statistics, where the head has them."""
    if "norm.norm.running_mean" not in p:
        return x
    return (x - p["norm.norm.running_mean"][:, None]) / np.sqrt(p["norm.norm.running_var"][:, None] + 1e-5)


def reference_add_gcn(feature_map: Array, p: dict[str, Array], _: LabelKnowledge, conditioned: bool) -> Array:
    """One picture at a time, one label at a time."""
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
            heard = edges @ h / (labels if conditioned else 1)
            z[c] = v[c] + leaky(p["dynamic_layer.weight"] @ leaky(heard) + p["dynamic_layer.bias"])
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
            seen = np.exp(scores - scores.max())
            start.append(x @ (seen / seen.sum()))
        f = np.array(start) @ p["projection.weight"].T + p["projection.bias"]
        h = f.copy()
        for _ in range(3):
            heard = np.hstack([graph @ h, back @ h])
            z = sigmoid(heard @ w_z.T + h @ u_z.T + b_z)
            r = sigmoid(heard @ w_r.T + h @ u_r.T + b_r)
            candidate = np.tanh(heard @ w_h.T + (r * h) @ u_h.T + b_h)
            h = (1 - z) * h + z * candidate
        o = np.tanh(np.hstack([h, f]) @ p["output.weight"].T + p["output.bias"])
        rows.append((o * p["classifiers.weight"]).sum(axis=1) + p["classifiers.bias"])
    return np.array(rows)


def reference_vacit(feature_map: Array, p: dict[str, Array], _: LabelKnowledge, conditioned: bool) -> Array:
    """A logit is the mean of the label's class activation map, plus its bias."""
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


@every_rival
@both_ways
@pytest.mark.parametrize("seed", range(3))
def test_logits_are_those_of_the_equations(name: str, conditioning: str, seed: int):
    image_side = as_if_trained(side(name, conditioning=conditioning), seed).eval()
    if conditioning == "text":
        image_side = image_side.double()  # a standardised feature is float32 always
    feature_map = maps(4)
    expected = REFERENCES[name](
        feature_map.double().numpy(), values_of(image_side), knowledge(), conditioning == "conditioned"
    )
    with torch.no_grad():
        logits = image_side(feature_map.to(next(image_side.parameters()).dtype)).logits
    assert expected.std() > 0.1  # not a constant that anything would match
    np.testing.assert_allclose(logits.double().numpy(), expected, rtol=1e-6, atol=1e-6)


# Permuted labels

BY_LABEL = {
    "add-gcn": (
        *("activation_maps.weight", "graph_from_picture.weight", "graph_from_label.weight"),
        *("graph_from_label.bias", "classifiers.weight", "classifiers.bias"),
    ),
    "ss-grl": ("classifiers.weight", "classifiers.bias"),
    "vacit": ("linear.weight", "linear.bias"),
}


@every_rival
@both_ways
def test_permuting_the_labels_permutes_the_logits_and_nothing_else(name: str, conditioning: str):
    known = knowledge()
    assert known.vectors is not None and known.counts is not None
    order = torch.tensor([3, 0, 4, 2, 1])
    moved = LabelKnowledge(C, known.vectors[order], known.counts[order][:, order])
    one = as_if_trained(side(name, known, conditioning=conditioning)).eval()
    other = side(name, moved, conditioning=conditioning).eval()
    fixed = {"decoupling.vectors", "interaction.graph"}  # these are the knowledge
    state = {key: value for key, value in one.state_dict().items() if key not in fixed}
    state |= {key: state[key][order] for key in BY_LABEL[name]}
    if name == "add-gcn":
        state["static_graph.weight"] = state["static_graph.weight"][order][:, order]
    missing = other.load_state_dict(state, strict=False).missing_keys
    assert set(missing) == (fixed if name == "ss-grl" else set())
    logits = one(maps(4)).logits
    torch.testing.assert_close(other(maps(4)).logits, logits[:, order], rtol=1e-5, atol=1e-5)
    assert (logits[:, order] - logits).abs().max() > 0.1


# What does not fit at once


def test_rows_in_parts_are_as_exact_as_at_once():
    rows, more = torch.randn(7, 3, requires_grad=True, generator=rng()), torch.randn(7, 1, generator=rng(1))
    calls = []

    def function(a: Tensor, b: Tensor) -> Tensor:
        calls.append(len(a))
        return (a * b).tanh()

    at_once = in_chunks(function, rows, more, row_size=3, chunk_size=21)
    (expected,) = torch.autograd.grad(at_once.sum(), rows)
    assert calls == [7]
    parted = in_chunks(function, rows, more, row_size=3, chunk_size=8)
    assert torch.equal(parted, at_once) and calls[1:] == [2, 2, 2, 1]
    assert torch.equal(torch.autograd.grad(parted.sum(), rows)[0], expected)
    assert calls[5:] in ([2, 2, 2, 1], [1, 2, 2, 2])  # again, for the backward pass
    assert torch.equal(in_chunks(function, rows, more, row_size=3, chunk_size=1), at_once)


@pytest.mark.parametrize("name", ["add-gcn", "ss-grl"])
def test_logits_and_gradients_do_not_depend_on_the_parts(name: str, monkeypatch: pytest.MonkeyPatch):
    image_side = as_if_trained(side(name))
    feature_map = maps(6).requires_grad_()

    def both() -> list[Tensor]:
        logits = image_side(feature_map).logits
        wanted = [feature_map, *image_side.parameters()]
        return [logits.detach(), *torch.autograd.grad(logits.square().sum(), wanted)]

    at_once = both()
    monkeypatch.setattr(add_gcn, "CHUNK_SIZE", 1)
    monkeypatch.setattr(ss_grl, "ATTENTION_CHUNK_SIZE", 1)
    monkeypatch.setattr(ss_grl, "GATES_CHUNK_SIZE", 1)
    for parted, expected in zip(both(), at_once, strict=True):
        torch.testing.assert_close(parted, expected, rtol=1e-4, atol=1e-4)


# ADD-GCN


@both_ways
def test_the_dynamic_graph_is_the_pictures_own(conditioning: str):
    image_side = as_if_trained(side("add-gcn", conditioning=conditioning)).eval()
    graph, seen = image_side.graph, []

    def watched(*given: Tensor) -> Tensor:
        seen.append(graph(*given))
        return seen[-1]

    image_side.graph = watched
    logits = image_side(maps(2)).logits
    (graphs,) = seen
    assert graphs.shape == (2, C, C) and ((graphs > 0) & (graphs < 1)).all()
    assert (graphs[0] - graphs[1]).abs().max() > 0.05
    image_side.graph = lambda *given: graph(*given).flip(0)
    assert (image_side(maps(2)).logits - logits).abs().max() > 1e-3  # and the logits depend on it


def test_map_scores_pool_as_chosen():
    feature_map = maps(4)
    largest, mean = (
        as_if_trained(side("add-gcn", conditioning="text", pooling=pooling)).eval()
        for pooling in ("max", "average")
    )
    activation = torch.einsum("bdhw,cd->bchw", feature_map, largest.activation_maps.weight)
    expected = (activation.amax(dim=(2, 3)) - activation.mean(dim=(2, 3))) / 2
    torch.testing.assert_close(largest(feature_map).logits - mean(feature_map).logits, expected)


# SS-GRL


def test_labels_attend_to_positions_of_their_own():
    image_side = as_if_trained(side("ss-grl"))
    features = maps(3).flatten(2).transpose(1, 2)
    attention = image_side.decoupling.attention(features)
    assert attention.shape == (3, C, 12)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, C))
    assert (attention[:, 0] - attention[:, 1]).abs().max() > 0.01


def test_messages_are_weighed_by_conditional_probabilities_by_hand():
    counts = torch.tensor([[4, 2, 0], [2, 8, 0], [0, 0, 0]])
    known = LabelKnowledge(3, torch.randn(3, 7, generator=rng()), counts)
    states = torch.tensor([1.0, 10.0, 100.0]).expand(1, 4, 3).mT
    for conditioning, along, against in (
        ("text", [6, 10.25, 0], [3.5, 10.5, 0]),
        ("conditioned", [6 / 1.5, 10.25 / 1.25, 0], [3.5 / 1.25, 10.5 / 1.5, 0]),
    ):
        image_side = side("ss-grl", known, feature_width=4, conditioning=conditioning, state_width=None)
        heard = image_side.interaction.messages(states)
        assert heard.shape == (1, 3, 8)
        torch.testing.assert_close(heard[0, :, 0], torch.tensor(along))
        torch.testing.assert_close(heard[0, :, 7], torch.tensor(against))


@both_ways
def test_counts_of_nothing_and_vectors_of_nothing_are_no_nan(conditioning: str):
    known = LabelKnowledge(C, torch.zeros(C, 7), torch.zeros(C, C, dtype=torch.int64))
    image_side = as_if_trained(side("ss-grl", known, conditioning=conditioning))
    logits = image_side(maps(4)).logits
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in image_side.parameters())


def test_labels_hear_each_other_along_the_graph():
    known = knowledge()
    assert known.counts is not None
    alone = LabelKnowledge(C, known.vectors, torch.diag(known.counts.diagonal()))
    one, other, again = (as_if_trained(side("ss-grl", k, conditioning="text")) for k in (known, alone, known))
    torch.testing.assert_close(one(maps(4)).logits, again(maps(4)).logits)
    assert not torch.allclose(one(maps(4)).logits, other(maps(4)).logits, atol=1e-3)


# VACIT


@both_ways
def test_a_backbone_that_follows_the_flip_costs_nothing(conditioning: str):
    image_side = as_if_trained(side("vacit", conditioning=conditioning))
    feature_map = maps(4)
    equivariant = image_side(torch.cat([feature_map, feature_map.flip(3)])).penalty
    torch.testing.assert_close(equivariant, torch.zeros(4))
    assert (image_side(torch.cat([feature_map, feature_map])).penalty > 0.01).all()
    assert (image_side(torch.cat([feature_map, feature_map.flip(2)])).penalty > 0.01).all()


def test_the_penalty_is_the_mean_squared_difference_of_the_maps():
    image_side = as_if_trained(side("vacit", conditioning="text")).double()
    pairs = maps(8).double()
    activation = np.einsum("bdhw,cd->bchw", pairs.numpy(), image_side.linear.weight.detach().numpy())
    expected = [
        np.mean([(one[c] - other[c][:, ::-1]) ** 2 for c in range(C)])
        for one, other in zip(activation[:4], activation[4:], strict=True)
    ]
    np.testing.assert_allclose(image_side(pairs).penalty.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("trains", ["both", "backbone"])
def test_the_penalty_trains_what_was_chosen(trains: str):
    image_side = as_if_trained(side("vacit", conditioning="text", penalty_trains=trains))
    feature_map = maps(6).requires_grad_()
    image_side(feature_map).penalty.sum().backward()
    assert feature_map.grad is not None and feature_map.grad.abs().sum() > 0
    weight = image_side.linear.weight.grad
    assert (weight is not None and weight.abs().sum() > 0) == (trains == "both")


@both_ways
def test_it_folds_to_its_own_logits(conditioning: str):
    image_side = as_if_trained(side("vacit", conditioning=conditioning, feature_dropout=0.5)).eval()
    weight, bias = image_side.affine(None)
    assert weight.dtype == bias.dtype == torch.float64
    feature_map = maps(6)
    folded = feature_map.mean(dim=(2, 3)).double() @ weight.T + bias
    torch.testing.assert_close(image_side(feature_map).logits, folded.float(), rtol=1e-5, atol=1e-5)


def test_training_and_eval_score_alike():
    """By the same statistics: standardising each position and then averaging is the same the other way."""
    image_side = as_if_trained(side("vacit"))
    for module in image_side.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 1.0  # the running statistics become the batch's
    trained = image_side(maps(32)).logits
    torch.testing.assert_close(image_side.eval()(maps(32)).logits, trained, rtol=1e-2, atol=1e-2)


def test_the_balance_holds_whichever_reduction_the_loss_has():
    assert VacitConfig().penalty_weight("sum", 80) == 1
    assert VacitConfig().penalty_weight("mean", 80) == 1 / 80
    assert VacitConfig(consistency_weight=0.6).penalty_weight("mean", 80) == 0.6
    assert AddGcnConfig().penalty_weight("sum", 80) == SsGrlConfig().penalty_weight("sum", 80) == 0
