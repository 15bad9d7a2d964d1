"""Regions and T, against loops that follow the definitions word by word."""

import pytest
import torch

import tmt_ext
from tmt.model.acte import ACTE, grid_regions, stride8, transferability_map
from tmt.model.estimator import DomainDiscriminator, discriminator_loss, proxy_a_distance
from tmt.settings import RegionSettings


def test_chi_averages_the_positions_that_exist():
    chi = stride8(torch.tensor([[[[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 6.0]]]]))
    torch.testing.assert_close(chi, torch.tensor([[[[4.0, 15.0], [3.0, 6.0]]]]))


def test_grid_regions_are_cells_cut_at_the_border():
    chi = torch.randn(2, 3, 5, 7)
    regions = grid_regions(chi, 4)
    assert regions.features.shape == (2, 3, 2, 2)
    for y in range(5):
        for x in range(7):
            assert (regions.labels[:, y, x] == (y // 4) * 2 + x // 4).all()
    torch.testing.assert_close(regions.features[:, :, 1, 1], chi[:, :, 4:, 4:].mean((2, 3)))


@pytest.mark.parametrize("regions", ["superpixel", "grid"])
def test_transferability_follows_its_definition(build, images, regions):
    model = build(regions=regions)
    with torch.no_grad():
        outputs = model(images)
        features, labels = model.region_features(images)
        probability = torch.sigmoid(model.estimator(features))
    transferability = outputs.transferability
    assert transferability.shape == labels.shape == (2, 13, 17)
    assert transferability.min() >= 0 and transferability.max() <= 1
    assert transferability.std() > 0
    torch.testing.assert_close(outputs.region_labels, labels)
    for b in range(2):
        for y in range(13):
            for x in range(17):
                row, column = divmod(labels[b, y, x].item(), features.shape[-1])
                assert abs(transferability[b, y, x] - (1 - probability[b, row, column])) < 1e-6


def test_superpixels_keep_near_their_cell():
    _, labels = ACTE(RegionSettings())(torch.randn(1, 8, 40, 56))
    rows, columns = labels[0] // 7, labels[0] % 7
    assert ((rows - torch.arange(20)[:, None] // 4).abs() <= 1).all()
    assert ((columns - torch.arange(28)[None] // 4).abs() <= 1).all()


def test_regions_stay_float32_under_autocast():
    features = torch.randn(1, 8, 16, 16)
    acte = ACTE(RegionSettings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        regions = acte(features)
    assert regions.features.dtype == torch.float32
    torch.testing.assert_close(regions.features, acte(features).features)


@pytest.fixture
def autocast_on_cuda():
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


def test_bfloat16_superpixels_are_for_autocast_on_cuda(build, autocast_on_cuda):
    chosen, default = build(superpixel_dtype="bfloat16").acte, build().acte
    assert chosen.finds_in_bfloat16("cuda") and not chosen.finds_in_bfloat16("cpu")
    assert not default.finds_in_bfloat16("cuda")
    torch.set_autocast_enabled("cuda", False)
    assert not chosen.finds_in_bfloat16("cuda")


def test_bfloat16_superpixels_round_chi_and_nothing_else(monkeypatch):
    features = torch.randn(1, 8, 16, 16)
    acte = ACTE(RegionSettings(superpixel_dtype="bfloat16"))
    assert torch.equal(acte(features).features, ACTE(RegionSettings())(features).features)  # on the CPU
    monkeypatch.setattr(ACTE, "finds_in_bfloat16", lambda self, device: True)
    expected = tmt_ext.superpixel(stride8(features).bfloat16(), 4)
    regions = acte(features)
    assert torch.equal(regions.features, expected.region_features.float())
    assert torch.equal(regions.labels, expected.labels)


def test_extreme_logits_stay_in_the_unit_interval():
    labels = torch.tensor([[[0, 1, 2]]])
    found = transferability_map(torch.tensor([[[-200.0, 0.0, 200.0]]]), labels)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.5, 0.0]]]))


def test_discriminator_looks_at_each_region_alone():
    discriminator = DomainDiscriminator(6, RegionSettings(estimator_hidden=16))
    features = torch.randn(2, 6, 3, 4)
    together = discriminator(features)
    assert together.shape == (2, 3, 4)
    torch.testing.assert_close(together[1, 2, 3], discriminator(features[1:, :, 2:, 3:])[0, 0, 0])


def test_discriminator_loss_is_cross_entropy_over_valid_regions():
    logits, valid = torch.tensor([[0.0, 2.0], [1.0, -50.0]]), torch.tensor([[True, True], [True, False]])
    expected = torch.nn.functional.softplus(torch.tensor([0.0, 2.0, -1.0])).mean()
    loss = discriminator_loss(logits, torch.tensor([0.0, 1.0]), valid, valid.sum())
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("error", "distance"), [(0.5, 0.0), (0.0, 2.0), (0.25, 1.0)])
def test_proxy_a_distance(error, distance):
    assert proxy_a_distance(error) == distance


def test_discriminator_learns_to_tell_shifted_features():
    discriminator = DomainDiscriminator(8, RegionSettings(estimator_hidden=16))
    optimiser = torch.optim.AdamW(discriminator.parameters(), 1e-2)
    domains = torch.arange(2).repeat_interleave(4).float()
    valid = torch.ones(8, 9, dtype=torch.bool)
    for _ in range(60):
        features = torch.randn(8, 8, 3, 3) + (1.4 * domains - 0.7)[:, None, None, None]
        logits = discriminator(features).flatten(1)
        optimiser.zero_grad()
        discriminator_loss(logits, domains, valid, valid.sum()).backward()
        optimiser.step()
    assert ((logits > 0) == (domains[:, None] > 0.5)).float().mean() > 0.9
