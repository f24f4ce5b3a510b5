"""Transforms as functions, on Pillow images and on tensors [..., C, H, W]."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir import dtypes
from ... import creation, shaping
from ...tensor import Tensor
from ..pillow import is_picture, pillow
from . import functional_pil, functional_tensor

__all__ = [
    "InterpolationMode", "adjust_brightness", "adjust_contrast", "adjust_hue", "adjust_saturation", "center_crop",
    "convert_image_dtype", "crop", "erase", "five_crop", "get_dimensions", "get_image_num_channels", "get_image_size",
    "hflip", "normalize", "pad", "pil_to_tensor", "resize", "resized_crop", "rgb_to_grayscale", "rotate",
    "to_grayscale", "to_pil_image", "to_tensor", "vflip",
]  # fmt: skip


class InterpolationMode(enum.Enum):
    """How pixels between pixels are found."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


_BY_NUMBER = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


def interpolation_name(interpolation: Any) -> str:
    """The name of a mode or of Pillow's number for it."""
    if isinstance(interpolation, int):
        return _BY_NUMBER[int(interpolation)]
    return InterpolationMode(interpolation).value


def _on(x: Any) -> Any:
    if is_picture(x):
        return functional_pil
    if not isinstance(x, Tensor):
        raise TypeError(f"Unexpected type {type(x)}")
    return functional_tensor


def get_dimensions(img: Any) -> list[int]:
    """[channels, height, width]."""
    if is_picture(img):
        return [len(img.getbands()), img.size[1], img.size[0]]
    functional_tensor.require_picture(img)
    return [1 if img.dim() == 2 else img.size(-3), *img.shape[-2:]]


def get_image_size(img: Any) -> list[int]:
    """[width, height]."""
    _, height, width = get_dimensions(img)
    return [width, height]


def get_image_num_channels(img: Any) -> int:
    """Number of channels."""
    return get_dimensions(img)[0]


def _pixels(pic: Any) -> np.ndarray:
    """[C, H, W] of a Pillow image, a copy."""
    kind = {"I": np.int32, "I;16": np.uint16, "F": np.float32}.get(pic.mode)
    pixels = np.array(pic, kind) if kind is not None else np.array(pic.convert("L") if pic.mode == "1" else pic)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def pil_to_tensor(pic: Any) -> Tensor:
    """The pixels of a Pillow image as they are, [C, H, W]."""
    if not is_picture(pic):
        raise TypeError(f"pic should be PIL Image. Got {type(pic)}")
    return creation.from_numpy(_pixels(pic))


def to_tensor(pic: Any) -> Tensor:
    """A Pillow image or array [H, W] or [H, W, C] as [C, H, W]; bytes become the default float in [0, 1]."""
    if isinstance(pic, np.ndarray):
        if pic.ndim not in (2, 3):
            raise ValueError(f"pic should be 2/3 dimensional. Got {pic.ndim} dimensions.")
        pixels = np.array(pic[None] if pic.ndim == 2 else pic.transpose(2, 0, 1), order="C")
    elif is_picture(pic):
        pixels = _pixels(pic)
    else:
        raise TypeError(f"pic should be PIL Image or ndarray. Got {type(pic)}")
    out = creation.from_numpy(pixels)
    if out.dtype is not dtypes.uint8:
        return out
    from ...promotion import get_default_dtype

    return out.to(get_default_dtype()) / 255


def to_pil_image(pic: Any, mode: str | None = None) -> Any:
    """A tensor [C, H, W] or array [H, W, C] as a Pillow image; floats of tensors are multiplied by 255, cut off."""
    if isinstance(pic, Tensor):
        if pic.dim() not in (2, 3):
            raise ValueError(f"pic should be 2/3 dimensional. Got {pic.dim()} dimensions.")
        if pic.dim() == 3 and pic.size(0) > 4:
            raise ValueError(f"pic should not have > 4 channels. Got {pic.size(0)} channels.")
        pic = pic.detach()
        if pic.dtype.is_floating_point and mode != "F":
            pic = (pic * 255).to(dtypes.uint8)
        pixels = pic.numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels[:, :, None]
    elif isinstance(pic, np.ndarray):
        if pic.ndim not in (2, 3):
            raise ValueError(f"pic should be 2/3 dimensional. Got {pic.ndim} dimensions.")
        pixels = pic if pic.ndim == 3 else pic[:, :, None]
        if pixels.shape[2] > 4:
            raise ValueError(f"pic should not have > 4 channels. Got {pixels.shape[2]} channels.")
    else:
        raise TypeError(f"pic should be Tensor or ndarray. Got {type(pic)}.")
    channels = pixels.shape[2]
    expected: str
    if channels == 1:
        pixels = pixels[:, :, 0]
        expected = {"|u1": "L", "<i2": "I;16", "<u2": "I;16", "<i4": "I", "<f4": "F"}.get(pixels.dtype.str, "")
        if mode is not None and mode != expected:
            raise ValueError(f"Incorrect mode ({mode}) supplied for input type {pixels.dtype}. Should be {expected}")
    else:
        allowed: tuple[str, ...] = {2: ("LA",), 3: ("RGB", "YCbCr", "HSV"), 4: ("RGBA", "CMYK", "RGBX")}[channels]
        if mode is not None and mode not in allowed:
            raise ValueError(f"Only modes {list(allowed)} are supported for {channels}D inputs")
        expected = mode or (allowed[0] if pixels.dtype == np.uint8 else "")
    if not expected:
        raise TypeError(f"Input type {pixels.dtype} is not supported")
    pixels = np.ascontiguousarray(pixels)
    if expected == "I;16":
        return pillow().frombytes("I;16", pixels.shape[::-1], pixels.astype("<u2").tobytes())
    if expected in ("YCbCr", "HSV", "CMYK", "RGBX"):
        return pillow().frombytes(expected, pixels.shape[1::-1], pixels.tobytes())
    return pillow().fromarray(pixels)


def convert_image_dtype(image: Tensor, dtype: Any = dtypes.float32) -> Tensor:
    """Pixels in another dtype with the range scaled along: 0..1 for floats, 0..largest for integers."""
    if not isinstance(image, Tensor):
        raise TypeError("Input img should be Tensor Image")
    source = image.dtype
    if source is dtype:
        return image
    if source.is_floating_point:
        if dtype.is_floating_point:
            return image.to(dtype)
        largest = int(np.iinfo(dtype.numpy).max)
        if (source is dtypes.float32 and dtype in (dtypes.int32, dtypes.int64)) or (
            source is dtypes.float64 and dtype is dtypes.int64
        ):
            raise RuntimeError(f"The cast from {source} to {dtype} cannot be performed safely.")
        return (image * (largest + 1.0 - 1e-3)).to(dtype)
    largest = int(np.iinfo(source.numpy).max)
    if dtype.is_floating_point:
        return image.to(dtype) / largest
    other = int(np.iinfo(dtype.numpy).max)
    if largest > other:
        return (image // ((largest + 1) // (other + 1))).to(dtype)
    return image.to(dtype) * ((other + 1) // (largest + 1))


def normalize(tensor: Tensor, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> Tensor:
    """``(x - mean) / std`` per channel of floating point [..., C, H, W]."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"img should be Tensor Image. Got {type(tensor)}")
    if not tensor.is_floating_point():
        raise TypeError(f"Input tensor should be a float tensor. Got {tensor.dtype}.")
    if tensor.dim() < 3:
        raise ValueError("Expected tensor to be a tensor image of size (..., C, H, W). Got tensor.size() = "
                         f"{tensor.size()}")  # fmt: skip
    centre, spread = (creation.as_tensor(v, dtype=tensor.dtype).reshape(-1, 1, 1) for v in (mean, std))
    if (spread == 0).any():
        raise ValueError(f"std evaluated to zero after conversion to {tensor.dtype}, leading to division by zero.")
    return tensor.sub_(centre).div_(spread) if inplace else (tensor - centre) / spread


def resize(
    img: Any, size: int | Sequence[int], interpolation: Any = InterpolationMode.BILINEAR, max_size: int | None = None,
    antialias: bool | None = True,
) -> Any:  # fmt: skip
    """To (height, width), or, for one number, the shorter side to that with the ratio kept (the longer at most
    ``max_size``)."""
    sizes = [size] if isinstance(size, int) else list(size)
    if len(sizes) == 2:
        if max_size is not None:
            raise ValueError("max_size should only be passed if size specifies the length of the smaller edge, i.e. "
                             "size should be an int or a sequence of length 1 in torchscript mode.")  # fmt: skip
        target = (sizes[0], sizes[1])
    else:
        (short,) = sizes
        _, height, width = get_dimensions(img)
        if max_size is not None and max_size <= short:
            raise ValueError(f"max_size = {max_size} must be strictly greater than the requested size for the smaller "
                             f"edge size = {size}")  # fmt: skip
        long = int(short * max(height, width) / min(height, width))
        if max_size is not None and long > max_size:
            short, long = int(max_size * short / long), max_size
        target = (long, short) if width <= height else (short, long)
    if target == tuple(get_dimensions(img)[1:]):
        return img
    name = interpolation_name(interpolation)
    if is_picture(img):
        return functional_pil.resize(img, target, name)
    return functional_tensor.resize(img, target, name, antialias)


def pad(img: Any, padding: int | Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> Any:
    """By one number, (left and right, top and bottom), or (left, top, right, bottom). Modes: constant, edge, reflect,
    symmetric."""
    if padding_mode not in ("constant", "edge", "reflect", "symmetric"):
        raise ValueError("Padding mode should be either constant, edge, reflect or symmetric")
    amounts = [padding] if isinstance(padding, int) else list(padding)
    if len(amounts) not in (1, 2, 4):
        raise ValueError(f"Padding must be an int or a 1, 2, or 4 element tuple, not a {len(amounts)} element tuple")
    left, top, right, bottom = amounts * (4 // len(amounts))
    return _on(img).pad(img, (left, top, right, bottom), fill, padding_mode)


def crop(img: Any, top: int, left: int, height: int, width: int) -> Any:
    """The part of that size at that place; zeros outside the picture."""
    return _on(img).crop(img, top, left, height, width)


def center_crop(img: Any, output_size: int | Sequence[int]) -> Any:
    """The middle, padded with zeros where the picture is smaller."""
    height, width = (output_size,) * 2 if isinstance(output_size, int) else (list(output_size) * 2)[:2]
    _, h, w = get_dimensions(img)
    if width > w or height > h:
        left, top = max(width - w, 0) // 2, max(height - h, 0) // 2
        img = pad(img, [left, top, max(width - w + 1, 0) // 2, max(height - h + 1, 0) // 2])
        _, h, w = get_dimensions(img)
        if (width, height) == (w, h):
            return img
    return crop(img, round((h - height) / 2.0), round((w - width) / 2.0), height, width)


def resized_crop(
    img: Any, top: int, left: int, height: int, width: int, size: Any,
    interpolation: Any = InterpolationMode.BILINEAR, antialias: bool | None = True,
) -> Any:  # fmt: skip
    """``crop``, then ``resize``."""
    return resize(crop(img, top, left, height, width), size, interpolation, antialias=antialias)


def five_crop(img: Any, size: int | Sequence[int]) -> tuple[Any, ...]:
    """The four corners (top left, top right, bottom left, bottom right) and the middle."""
    height, width = (size,) * 2 if isinstance(size, int) else (list(size) * 2)[:2]
    _, h, w = get_dimensions(img)
    if width > w or height > h:
        raise ValueError(f"Requested crop size {[height, width]} is bigger than input size {(h, w)}")
    corners = [crop(img, top, left, height, width) for top in (0, h - height) for left in (0, w - width)]
    return (*corners, center_crop(img, [height, width]))


def hflip(img: Any) -> Any:
    """Left and right exchanged."""
    return functional_pil.flip(img, True) if is_picture(img) else shaping.flip(img, [img.dim() - 1])


def vflip(img: Any) -> Any:
    """Top and bottom exchanged."""
    return functional_pil.flip(img, False) if is_picture(img) else shaping.flip(img, [img.dim() - 2])


def rotate(
    img: Any, angle: float, interpolation: Any = InterpolationMode.NEAREST, expand: bool = False, center: Any = None,
    fill: Any = None,
) -> Any:  # fmt: skip
    """Counter-clockwise by ``angle`` degrees; ``expand`` makes room for all of the picture."""
    return _on(img).rotate(img, angle, interpolation_name(interpolation), expand, center, fill)


def adjust_brightness(img: Any, brightness_factor: float) -> Any:
    """0 is black, 1 leaves the picture."""
    if brightness_factor < 0:
        raise ValueError(f"brightness_factor ({brightness_factor}) is not non-negative.")
    return _on(img).enhance(img, "Brightness", brightness_factor)


def adjust_contrast(img: Any, contrast_factor: float) -> Any:
    """0 is grey, 1 leaves the picture."""
    if contrast_factor < 0:
        raise ValueError(f"contrast_factor ({contrast_factor}) is not non-negative.")
    return _on(img).enhance(img, "Contrast", contrast_factor)


def adjust_saturation(img: Any, saturation_factor: float) -> Any:
    """0 is without colours, 1 leaves the picture."""
    if saturation_factor < 0:
        raise ValueError(f"saturation_factor ({saturation_factor}) is not non-negative.")
    return _on(img).enhance(img, "Color", saturation_factor)


def adjust_hue(img: Any, hue_factor: float) -> Any:
    """Turns the circle of colours by a part of it, -0.5 to 0.5."""
    if not -0.5 <= hue_factor <= 0.5:
        raise ValueError(f"hue_factor ({hue_factor}) is not in [-0.5, 0.5].")
    return _on(img).shift_hue(img, hue_factor)


def rgb_to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """One grey channel, or three equal ones."""
    if num_output_channels not in (1, 3):
        raise ValueError("num_output_channels should be either 1 or 3")
    if is_picture(img):
        return functional_pil.grayscale(img, num_output_channels)
    return functional_tensor.luminance(img, num_output_channels)


def to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """``rgb_to_grayscale`` for Pillow images."""
    if not is_picture(img):
        raise TypeError("Input should be PIL Image")
    return rgb_to_grayscale(img, num_output_channels)


def erase(img: Tensor, i: int, j: int, h: int, w: int, v: Any, inplace: bool = False) -> Tensor:
    """The rectangle at row ``i``, column ``j`` of size ``h`` x ``w`` replaced by ``v``."""
    if not isinstance(img, Tensor):
        raise TypeError(f"img should be Tensor Image. Got {type(img)}")
    out = img if inplace else img.clone()
    out[..., i : i + h, j : j + w] = v
    return out
