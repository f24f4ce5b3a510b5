"""Transforms on Pillow images and tensors; reading and writing pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot.vision import io, transforms, utils
from ingot.vision.transforms import functional as F

Image = pytest.importorskip("PIL.Image")


def photo(height: int = 20, width: int = 30, channels: int = 3, seed: int = 0) -> Any:
    """A smooth picture, so that resizing means something."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height), 2)
    return coarse if channels == 3 else coarse.convert("L")


def bytes_of(picture: Any) -> np.ndarray:
    a = np.asarray(picture)
    return a[None] if a.ndim == 2 else a.transpose(2, 0, 1)


def test_to_tensor() -> None:
    picture = photo()
    t = transforms.ToTensor()(picture)
    assert t.dtype is ingot.float32 and t.shape == (3, 20, 30)
    assert np.array_equal(t.numpy(), bytes_of(picture).astype(np.float32) / np.float32(255))
    assert np.array_equal(transforms.ToTensor()(np.asarray(picture)).numpy(), t.numpy())
    assert transforms.ToTensor()(np.zeros((4, 5), np.uint8)).shape == (1, 4, 5)
    assert transforms.ToTensor()(np.full((4, 5), 7.5)).dtype is ingot.float64  # floats keep their values
    assert transforms.ToTensor()(picture.convert("1")).max().item() == 1.0
    assert transforms.PILToTensor()(picture).dtype is ingot.uint8
    with pytest.raises(TypeError, match=r"pic should be PIL Image or ndarray\. Got <class 'list'>"):
        transforms.ToTensor()([1])
    with pytest.raises(ValueError, match=r"pic should be 2/3 dimensional\. Got 1 dimensions"):
        transforms.ToTensor()(np.zeros(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_to_pil_image_gives_the_picture_back(channels: int) -> None:
    picture = photo(channels=channels)
    back = transforms.ToPILImage()(transforms.ToTensor()(picture))
    assert back.mode == picture.mode and back.size == picture.size
    # Truncation may lose one grey level to rounding.
    assert np.abs(bytes_of(back).astype(int) - bytes_of(picture)).max() <= 1
    assert np.array_equal(bytes_of(transforms.ToPILImage()(transforms.PILToTensor()(picture))), bytes_of(picture))
    assert transforms.ToPILImage()(ingot.tensor([[0.999]])).getpixel((0, 0)) == 254
    with pytest.raises(ValueError, match=r"pic should not have > 4 channels\. Got 5 channels"):
        transforms.ToPILImage()(ingot.zeros(5, 2, 2))


def test_normalize_and_its_undoing() -> None:
    t = transforms.ToTensor()(photo())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = transforms.Normalize(mean, std)(t)
    m, s = (np.float32(v).reshape(3, 1, 1) for v in (mean, std))
    assert np.allclose(out.numpy(), (t.numpy() - m) / s, atol=1e-6)
    half = transforms.Normalize((0.5,), (0.5,))(t)
    assert half.min().item() >= -1 and half.max().item() <= 1 and np.allclose((half / 2 + 0.5).numpy(), t.numpy())
    with pytest.raises(TypeError, match=r"Input tensor should be a float tensor\. Got"):
        transforms.Normalize(mean, std)(ingot.zeros(3, 2, 2, dtype=ingot.uint8))
    with pytest.raises(ValueError, match="std evaluated to zero after conversion to"):
        transforms.Normalize((0.5,), (0.0,))(t)


@pytest.mark.parametrize(
    ("size", "wanted"), [((300, 310), (300, 310)), (40, (40, 60)), ([10], (10, 15)), (20, (20, 30))]
)
def test_resize(size: Any, wanted: tuple[int, int]) -> None:
    picture = photo()
    a, b = transforms.Resize(size)(picture), transforms.Resize(size)(transforms.ToTensor()(picture))
    assert a.size[::-1] == wanted and b.shape[1:] == wanted
    # The two ways agree but for Pillow's rounding to bytes after each direction.
    assert np.abs(transforms.ToTensor()(a).numpy() - b.numpy()).max() < 3 / 255
    whole = transforms.Resize(size)(transforms.PILToTensor()(picture))
    assert whole.dtype is ingot.uint8 and np.abs(whole.numpy().astype(int) - bytes_of(a)).max() <= 2


def test_resize_with_a_limit() -> None:
    assert transforms.Resize(40, max_size=50)(photo()).size == (50, 33)
    with pytest.raises(ValueError, match="must be strictly greater than the requested size"):
        transforms.Resize(40, max_size=40)(photo())


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("padding", [2, (1, 3), (1, 2, 3, 4)])
def test_padding_and_cropping_agree_on_pictures_and_tensors(mode: str, padding: Any) -> None:
    picture = photo()
    t = transforms.PILToTensor()(picture)
    fill = 7 if mode == "constant" else 0
    pad = transforms.Pad(padding, fill, mode)
    assert np.array_equal(bytes_of(pad(picture)), pad(t).numpy())
    for place in ((2, 3, 10, 11), (-3, -2, 30, 40), (-5, 4, 10, 50)):
        assert np.array_equal(bytes_of(F.crop(picture, *place)), F.crop(t, *place).numpy()), place
    for size in (7, (20, 30), (30, 12), (41, 51)):
        assert np.array_equal(bytes_of(F.center_crop(picture, size)), F.center_crop(t, size).numpy()), size


def test_flips_and_rotations_agree() -> None:
    picture = photo()
    t = transforms.PILToTensor()(picture)
    for flip in (F.hflip, F.vflip):
        assert np.array_equal(bytes_of(flip(picture)), flip(t).numpy())
    for angle in (0, 90, 180, 270):
        assert np.array_equal(bytes_of(F.rotate(picture, angle, expand=True)), F.rotate(t, angle, expand=True).numpy())
    for angle in (17, -65):
        a, b = bytes_of(F.rotate(picture, angle)), F.rotate(t, angle).numpy()
        assert (np.abs(a.astype(int) - b) > 40).mean() < 0.05  # pixels on the border between two
    smooth = F.rotate(t, 10, transforms.InterpolationMode.BILINEAR)
    assert smooth.shape == t.shape


def test_colours_agree() -> None:
    picture = photo()
    t = transforms.PILToTensor()(picture)
    changes = (
        (F.adjust_brightness, (0, 0.4, 1, 1.7)), (F.adjust_contrast, (0, 0.4, 1, 1.7)),
        (F.adjust_saturation, (0, 0.4, 1, 1.7)),
    )  # fmt: skip
    for change, factors in changes:
        for f in factors:
            assert np.abs(bytes_of(change(picture, f)).astype(int) - change(t, f).numpy()).max() <= 2, (change, f)
    for f in (-0.5, -0.1, 0, 0.25):
        a, b = bytes_of(F.adjust_hue(picture, f)).astype(int), F.adjust_hue(t, f).numpy().astype(int)
        assert np.abs(a - b).mean() < 4, f  # Pillow keeps hue and saturation as bytes
    assert np.abs(F.adjust_hue(t, 0.0).numpy().astype(int) - t.numpy()).max() <= 1
    assert np.abs(bytes_of(F.to_grayscale(picture)).astype(int) - F.rgb_to_grayscale(t).numpy()).max() <= 1
    with pytest.raises(ValueError, match=r"hue_factor \(0.6\) is not in \[-0.5, 0.5\]"):
        F.adjust_hue(t, 0.6)


def test_a_hue_turned_by_a_third_exchanges_the_channels() -> None:
    t = ingot.tensor([0.8, 0.3, 0.1]).reshape(3, 1, 1)
    assert np.allclose(F.adjust_hue(t, 1 / 3).reshape(3).numpy(), [0.1, 0.8, 0.3], atol=1e-6)


def test_random_crop() -> None:
    ingot.manual_seed(0)
    crop = transforms.RandomCrop(112, padding=4)
    picture = photo(112, 112)
    t = transforms.PILToTensor()(picture)
    padded = np.pad(t.numpy(), ((0, 0), (4, 4), (4, 4)))
    places = set()
    for _ in range(20):
        out = crop(t).numpy()
        (place,) = [
            (i, j) for i in range(9) for j in range(9) if np.array_equal(padded[:, i : i + 112, j : j + 112], out)
        ]
        places.add(place)
    assert len(places) > 10 and crop(picture).size == (112, 112)
    with pytest.raises(ValueError, match=r"Required crop size \(30, 30\) is larger than input image size \(20, 30\)"):
        transforms.RandomCrop(30)(photo())
    assert transforms.RandomCrop(40, pad_if_needed=True)(photo()).size == (40, 40)


def test_random_flips_come_as_often_as_asked() -> None:
    ingot.manual_seed(1)
    t = ingot.arange(4).reshape(1, 2, 2)
    for p in (0.5, 0.2):
        for flip in (transforms.RandomHorizontalFlip(p), transforms.RandomVerticalFlip(p)):
            count = sum(not (flip(t) == t).all() for _ in range(600))
            assert abs(count / 600 - p) < 0.08
    assert transforms.RandomHorizontalFlip().p == 0.5
    with ingot.no_grad():
        assert sum((transforms.RandomApply([transforms.Lambda(lambda x: -x)], 0.3)(t) != t).any().item()
                   for _ in range(600)) in range(120, 240)  # fmt: skip


def test_other_random_transforms() -> None:
    ingot.manual_seed(2)
    t = transforms.ToTensor()(photo())
    assert transforms.RandomResizedCrop(16)(t).shape == (3, 16, 16)
    assert transforms.RandomResizedCrop((8, 9))(photo()).size == (9, 8)
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    assert jitter(photo()).size == (30, 20) and not (jitter(t) == t).all()
    assert transforms.RandomRotation(30)(t).shape == t.shape
    erased = transforms.RandomErasing(p=1.0, value=0.123)(t)
    share = (erased == np.float32(0.123)).all(0).float().mean().item()
    assert 0.01 < share < 0.4 and (t != np.float32(0.123)).all()
    noise = transforms.RandomErasing(p=1.0, value="random")(t)
    assert (noise != t).any()
    chosen = {transforms.RandomChoice([lambda x: 1, lambda x: 2], p=[1, 3])(0) for _ in range(30)}
    assert chosen == {1, 2}
    assert sorted(transforms.RandomOrder([lambda x: [*x, 1], lambda x: [*x, 2]])([])) == [1, 2]
    assert len(transforms.FiveCrop(8)(photo())) == 5


def test_the_same_seed_gives_the_same_pictures() -> None:
    chain = transforms.Compose([
        transforms.RandomResizedCrop(12), transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.5),
        transforms.ToTensor(), transforms.RandomErasing(),
    ])  # fmt: skip
    found = []
    for _ in range(2):
        ingot.manual_seed(9)
        found.append([chain(photo()).numpy() for _ in range(5)])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_printed_forms() -> None:
    chain = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,)),
    ])  # fmt: skip
    assert str(chain) == (
        "Compose(\n    Resize(size=256, interpolation=bilinear, max_size=None, antialias=True)\n"
        "    CenterCrop(size=(224, 224))\n    ToTensor()\n    Normalize(mean=(0.5,), std=(0.5,))\n)"
    )
    shown = {
        "RandomCrop(size=(32, 32), padding=4)": transforms.RandomCrop(32, padding=4),
        "RandomHorizontalFlip(p=0.5)": transforms.RandomHorizontalFlip(),
        "RandomResizedCrop(size=(224, 224), scale=(0.08, 1.0), ratio=(0.75, 1.3333), interpolation=bilinear, "
        "antialias=True)": transforms.RandomResizedCrop(224),
        "ColorJitter(brightness=(0.5, 1.5), contrast=None, saturation=None, hue=None)": transforms.ColorJitter(0.5),
        "RandomRotation(degrees=[-10.0, 10.0], interpolation=nearest, expand=False, fill=0)":
            transforms.RandomRotation(10),
        "Pad(padding=3, fill=0, padding_mode=constant)": transforms.Pad(3),
        "Grayscale(num_output_channels=1)": transforms.Grayscale(),
        "ToPILImage()": transforms.ToPILImage(),
    }  # fmt: skip
    for text, t in shown.items():
        assert repr(t) == text


def test_convert_image_dtype() -> None:
    t = ingot.tensor([0, 128, 255], dtype=ingot.uint8)
    assert np.allclose(F.convert_image_dtype(t).numpy(), [0, 128 / 255, 1])
    assert F.convert_image_dtype(ingot.tensor([0.0, 0.5, 1.0]), ingot.uint8).tolist() == [0, 127, 255]
    assert F.convert_image_dtype(t, ingot.int16).tolist() == [0, 128 * 128, 255 * 128]
    with pytest.raises(RuntimeError, match="cannot be performed safely"):
        F.convert_image_dtype(ingot.zeros(1), ingot.int32)


def test_reading_and_writing_pictures(tmp_path: Path) -> None:
    for channels in (1, 3):
        picture = photo(channels=channels)
        picture.save(tmp_path / "a.png")
        t = io.read_image(str(tmp_path / "a.png"))
        assert t.dtype is ingot.uint8 and np.array_equal(t.numpy(), bytes_of(picture))
        io.write_png(t, tmp_path / "b.png")
        assert (io.read_image(tmp_path / "b.png") == t).all()
        assert io.read_image(tmp_path / "a.png", io.ImageReadMode.GRAY).shape == (1, 20, 30)
        assert io.read_image(tmp_path / "a.png", "RGB").shape == (3, 20, 30)
    with pytest.raises(OSError):
        io.read_image(tmp_path / "none.png")


def test_grids(tmp_path: Path) -> None:
    pictures = ingot.arange(5).float().reshape(5, 1, 1, 1).expand(5, 1, 4, 6) / 5
    grid = utils.make_grid(pictures, nrow=2, padding=1, pad_value=0.9)
    assert grid.shape == (3, 3 * 5 + 1, 2 * 7 + 1)
    g = grid[0].numpy()
    assert (g[0] == np.float32(0.9)).all() and np.allclose(g[6:10, 8:14], 0.6) and np.allclose(g[11:15, 8:14], 0.9)
    utils.save_image(pictures, tmp_path / "grid.png", nrow=2, padding=1)
    assert io.read_image(tmp_path / "grid.png")[0, 6, 8].item() == round(0.6 * 255)
    scaled = utils.make_grid(pictures * 7 - 3, normalize=True, padding=0)
    assert scaled.min().item() == 0 and abs(scaled.max().item() - 1) < 1e-6


def test_pictures_without_pillow_say_what_to_install() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\nfrom ingot.vision import io, models, transforms\nimport numpy as np\n"
        "transforms.ToTensor()(np.zeros((2, 2), np.uint8))\nmodels.lenet()\ntry:\n    io.read_image('x.png')\n"
        "except ImportError as e:\n    print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "pip install 'ingot[vision]'" in done.stdout, done.stderr
