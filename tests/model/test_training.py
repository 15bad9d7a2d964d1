"""What a training step needs: gradients everywhere they belong and nowhere else, precision, groups, initialisation."""

import math

import pytest
import torch

from tmt.model import initialise_from_scratch, masks_from_labels


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
@pytest.mark.parametrize("fields", [{}, {"transferability": False, "mask_rule": "foreground"}])
def test_every_trainable_weight_gets_a_gradient(build, images, labels, backbone, fields):
    model = build(backbone, **fields).train()
    outputs = model(images, *masks_from_labels(labels, 5))
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    reached = {name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None}
    assert not reached


@pytest.mark.parametrize("fields", [{"transfer_mode": "bias"}, {"regions": "grid"}, {"use_auxiliary_loss": False}])
def test_ablations_train(build, images, labels, fields):
    model = build(**fields).train()
    outputs = model(images, *masks_from_labels(labels, 5))
    outputs.loss.backward()
    assert len(outputs.loss_dict) == (3 if "use_auxiliary_loss" in fields else 15)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_images_without_any_mask_train(build, images, labels):
    model = build().train()
    labels = torch.full_like(labels, 255)
    loss = model(images, *masks_from_labels(labels, 5)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_no_gradient_flows_into_transferability(build, images, labels):
    model = build().train()
    model.estimator.requires_grad_(True)
    given = torch.rand(2, 13, 17, requires_grad=True)
    model(images, *masks_from_labels(labels, 5), transferability=given).loss.backward()
    model(images, *masks_from_labels(labels, 5)).loss.backward()
    assert given.grad is None
    assert all(parameter.grad is None for parameter in model.estimator.parameters())


def test_transferability_of_another_batch_is_refused(build, images):
    with pytest.raises(ValueError, match=r"transferability must be \(2, h, w\), got \(1, 13, 17\)"):
        build()(images, transferability=torch.rand(1, 13, 17))


def test_region_features_train_the_estimator(build, images):
    model = build()
    regions = model.region_features(images)
    assert not regions.features.requires_grad and regions.features.dtype == torch.float32
    model.estimator.requires_grad_(True)
    model.estimator(regions.features).sum().backward()
    assert all(parameter.grad is not None for parameter in model.estimator.parameters())


def test_autocast_keeps_pixel_decoder_and_transferability_in_float32(build, images, labels):
    model = build().train()
    seen = {}
    decoder = model.model.pixel_level_module.decoder
    decoder.encoder.layers[0].fc1.register_forward_hook(lambda m, x, y: seen.update(pixel=y.dtype))
    model.model.transformer_module.decoder.layers[0].fc1.register_forward_hook(
        lambda m, x, y: seen.update(queries=y.dtype)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images, *masks_from_labels(labels, 5))
    outputs.loss.backward()
    assert seen == {"pixel": torch.float32, "queries": torch.bfloat16}
    assert outputs.transferability.dtype == outputs.loss.dtype == outputs.class_queries_logits.dtype == torch.float32
    assert torch.isfinite(outputs.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_parameter_groups_hold_every_trainable_weight_once(build, backbone):
    model = build(backbone)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["name"]: group for group in model.parameter_groups(1e-4, 0.05, 0.1)}
    assert set(groups) == {"backbone", "backbone_no_decay", "head", "head_no_decay"}
    members = {name: {names[id(p)] for p in group["params"]} for name, group in groups.items()}
    listed = [names[id(p)] for group in groups.values() for p in group["params"]]
    assert sorted(listed) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert groups["backbone"]["lr"] == pytest.approx(1e-5) and groups["head"]["lr"] == 1e-4
    assert groups["backbone_no_decay"]["weight_decay"] == groups["head_no_decay"]["weight_decay"] == 0
    assert groups["backbone"]["weight_decay"] == groups["head"]["weight_decay"] == 0.05
    prefix = "model.transformer_module."
    assert {prefix + "level_embed.weight", prefix + "queries_features.weight"} <= members["head_no_decay"]
    assert "model.pixel_level_module.decoder.level_embed" in members["head_no_decay"]
    assert prefix + "decoder.layers.0.cross_attn.in_proj_weight" in members["head"]
    tables = {name for name in listed if "relative_position_bias_table" in name}
    assert tables <= members["backbone_no_decay"] and bool(tables) == (backbone == "swin")


def test_initialisation_is_the_original_one(build):
    model = build(num_queries=100, hidden_dim=256, feature_size=256)
    transformer, decoder = model.model.transformer_module, model.model.pixel_level_module.decoder
    for weight in (transformer.queries_embedder.weight, transformer.queries_features.weight, decoder.level_embed):
        assert weight.std().item() == pytest.approx(1.0, abs=0.1)
    layer = transformer.decoder.layers[0]
    for weight, bound in (
        (layer.cross_attn.in_proj_weight, math.sqrt(6 / (256 + 3 * 256))),
        (layer.self_attn.q_proj.weight, math.sqrt(6 / (256 + 3 * 256))),
        (layer.fc1.weight, math.sqrt(6 / (256 + 64))),
        (decoder.mask_projection.weight, math.sqrt(3 / 256)),
        (model.class_predictor.weight, 1 / 16),
        (next(transformer.decoder.mask_predictor.mask_embedder.parameters()), 1 / 16),
    ):
        assert bound * 0.97 < weight.abs().max().item() <= bound * 1.0001
    offsets = decoder.encoder.layers[0].self_attn.sampling_offsets.bias.view(4, 3, 4, 2)
    torch.testing.assert_close(offsets[1, 2, 3], torch.tensor([0.0, 4.0]), rtol=0, atol=1e-5)


def test_initialisation_follows_the_seed_alone(build):
    model, other = build(), build()
    backbone = "model.pixel_level_module.encoder."
    for one in (model, other):
        torch.manual_seed(3)
        initialise_from_scratch(one)
    for name, value in model.state_dict().items():
        if not name.startswith(backbone):
            torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_few_steps_reduce_the_loss(build, images, labels):
    model = build().train()
    optimiser = torch.optim.AdamW(model.parameter_groups(1e-3, 0.05, 1.0))
    seeds, losses = torch.tensor([1, 2]), []
    for _ in range(12):
        optimiser.zero_grad()
        loss = model(images, *masks_from_labels(labels, 5), sample_seeds=seeds).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
