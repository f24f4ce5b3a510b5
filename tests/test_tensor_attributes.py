"""Types, attributes, conversions, shared memory, namespaces: what programs ask of tensors besides arithmetic."""

from __future__ import annotations

import copy
import pickle

import ingot as ig
import numpy as np
import pytest
from ingot.ir.errors import UnsupportedError

WORDS = {
    "Float": ig.float32, "Double": ig.float64, "Half": ig.float16, "BFloat16": ig.bfloat16, "Byte": ig.uint8,
    "Char": ig.int8, "Short": ig.int16, "Int": ig.int32, "Long": ig.int64, "Bool": ig.bool,
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_tensor_types(word) -> None:
    kind, dtype = getattr(ig, f"{word}Tensor"), WORDS[word]
    made = kind([1, 0, 1])
    assert made.dtype is dtype and made.tolist() == [1, 0, 1] and made.type() == f"torch.{word}Tensor" == str(kind)
    assert kind(2, 3).shape == (2, 3) and kind().shape == (0,) and kind(ig.Size([4])).shape == (4,)
    assert isinstance(made, kind) and not isinstance(ig.ones(1, dtype=ig.uint16), kind)
    for form in (kind, str(kind), dtype):
        assert ig.ones(2, dtype=ig.int32).type(form).dtype is dtype
    assert pickle.loads(pickle.dumps(kind)) is kind
    with pytest.raises(TypeError, match="CUDA"):
        getattr(ig.cuda, f"{word}Tensor")(2)
    with pytest.raises(TypeError, match="expected torch"):
        kind(ig.ones(1, dtype=ig.uint16))


def test_tensor_takes_the_default_type() -> None:
    assert ig.Tensor([1, 2]).dtype is ig.float32 and ig.Tensor(3, 2).shape == (3, 2)
    assert ig.Tensor([0, 1, 2]).long().tolist() == [0, 1, 2]
    data = ig.ones(2, 3, dtype=ig.int32)
    assert data.new().dtype is ig.int32 and data.new().shape == (0,) and data.new([4]).tolist() == [4]
    buffer = data.new().resize_as_(data).zero_()
    assert buffer.shape == (2, 3) and not buffer.any()


def test_to() -> None:
    x = ig.ones(2, 3, 4, 5)
    assert x.to(ig.float32) is x and x.to("cpu") is x and x.to(x) is x and x.cpu() is x
    assert x.to("cpu", ig.float64, True, True).dtype is ig.float64
    assert x.to(ig.int32, non_blocking=True).dtype is ig.int32 and x.to(ig.ones(1, dtype=ig.int8)).dtype is ig.int8
    twin = x.to(ig.float32, copy=True)
    twin[0] = 0
    assert x.all()
    last = x.to(memory_format=ig.channels_last)
    assert last.stride() == (60, 1, 15, 3) and last.is_contiguous(memory_format=ig.channels_last)
    assert not last.is_contiguous() and last.contiguous().stride() == x.stride() and ig.equal(last, x)
    assert x.type_as(ig.ones(1, dtype=ig.int64)).dtype is ig.int64
    with pytest.raises(TypeError, match="invalid combination"):
        x.to(ig.float32, nonsense=1)
    for move in (lambda: x.cuda(), lambda: x.to("cuda:1"), lambda: x.to(ig.device("cuda", 2)),
                 lambda: ig.ones(1, device="cuda")):  # fmt: skip
        with pytest.raises(UnsupportedError, match="not available"):
            move()


def test_attributes() -> None:
    x = ig.ones(2, 3)
    assert x.shape == x.size() == ig.Size([2, 3]) and x.size(1) == 3 and x.ndim == x.dim() == x.ndimension() == 2
    assert x.device == ig.device("cpu") and not x.is_cuda and x.is_cpu and x.get_device() == -1
    assert x.layout is ig.strided and not (x.is_sparse or x.is_quantized or x.is_meta or x.is_complex())
    assert x.element_size() == 4 and x.itemsize == 4 and x.nbytes == 24 and x.numel() == x.nelement() == 6
    assert x.is_floating_point() and ig.is_floating_point(x) and not ig.is_floating_point(x.long())
    assert x.is_signed() and not x.byte().is_signed() and x.is_same_size(ig.zeros(2, 3)) and not x.is_pinned()
    assert ig.is_tensor(x) and not ig.is_tensor(x.numpy()) and ig.is_nonzero(ig.tensor([2]))
    assert ig.typename(x) == "torch.FloatTensor" == ig.typename(ig.nn.Parameter(x)) and ig.typename(3) == "int"
    assert len(x) == 2 and [r.tolist() for r in x] == [[1, 1, 1]] * 2 and 1 in x
    assert bool(ig.tensor(2)) and int(ig.tensor(2.5)) == 2 and float(ig.tensor(2)) == complex(ig.tensor(2.0)) == 2.0
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(x)
    with pytest.raises(TypeError, match="0-d"):
        len(ig.tensor(1))
    with pytest.raises(RuntimeError, match="accelerator"):
        x.pin_memory()


def test_memory_is_shared_with_numpy() -> None:
    array = np.zeros((2, 3), np.float32)
    for t in (ig.from_numpy(array), ig.as_tensor(array), ig.from_dlpack(array), ig.frombuffer(array, dtype=ig.float32)):
        t[...] = t + 1
    assert (array == 4).all()
    t = ig.zeros(4)
    for view in (t.numpy(), np.asarray(t), np.from_dlpack(t)):
        assert view.__array_interface__["data"][0] == t.data_ptr()
    np.asarray(t)[1] = 7
    assert t.tolist() == [0, 7, 0, 0]
    assert ig.tensor(np.ones(2)).dtype is ig.float64 and not np.shares_memory(ig.tensor(array).numpy(), array)
    assert isinstance(np.exp(t), ig.Tensor)
    with pytest.raises(RuntimeError, match="detach"):
        ig.ones(2, requires_grad=True).numpy()
    with pytest.raises(BufferError, match="detach"):
        ig.ones(2, requires_grad=True).__dlpack__()
    with pytest.raises(ValueError, match="multiple of"):
        ig.frombuffer(b"12345", dtype=ig.float32)
    assert ig.frombuffer(bytearray(b"\x01\x00\x02\x00"), dtype=ig.int16, offset=2).tolist() == [2]


def test_storage() -> None:
    t = ig.arange(12).reshape(3, 4)
    row = t[1]
    assert row.storage_offset() == 4 and row.untyped_storage() == t.untyped_storage()
    assert row.untyped_storage().data_ptr() == t.data_ptr() and row.data_ptr() == t.data_ptr() + 32
    assert t.untyped_storage().nbytes() == 96 and len(t.storage()) == 12 and row.storage().tolist() == list(range(12))
    assert not t.is_set_to(row) and t.is_set_to(t.detach()) and ig.is_storage(t.storage())
    assert t.untyped_storage() != t.clone().untyped_storage()


def test_resize() -> None:
    t = ig.arange(6)
    assert t.resize_(2, 2).tolist() == [[0, 1], [2, 3]]
    assert t.resize_(8).tolist()[:6] == [0, 1, 2, 3, 4, 5] or t.tolist()[:4] == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="require grad"):
        ig.ones(2, requires_grad=True).resize_(3)
    with pytest.warns(UserWarning, match="deprecated"):
        assert ig.arange(6).resize(3, 2).shape == (3, 2)


def test_copies() -> None:
    x = ig.ones(2, requires_grad=True)
    x.grad = ig.ones(2) * 3
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert ig.equal(twin, x) and twin.requires_grad and twin.data_ptr() != x.data_ptr()
    assert copy.copy(x).data_ptr() == x.data_ptr()
    p = pickle.loads(pickle.dumps(ig.nn.Parameter(ig.ones(2), requires_grad=False)))
    assert isinstance(p, ig.nn.Parameter) and not p.requires_grad
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(x * 2)


def test_numbers_about_dtypes() -> None:
    assert ig.finfo(ig.float32).eps == 2**-23 and ig.finfo(ig.float16).max == 65504 and ig.finfo().bits == 32
    assert repr(ig.iinfo(ig.int8)) == "iinfo(min=-128, max=127, dtype=int8)"
    with pytest.raises(TypeError, match="floating point"):
        ig.finfo(ig.int32)
    with pytest.raises(TypeError, match="integer"):
        ig.iinfo(ig.float32)
    assert ig.can_cast(ig.int64, ig.float16) and not ig.can_cast(ig.float32, ig.int64)
    assert not ig.can_cast(ig.int8, ig.bool)
    assert ig.promote_types(ig.int32, ig.float16) is ig.float16 and ig.result_type(ig.ones(1), 2) is ig.float32
    try:
        ig.set_default_tensor_type("torch.DoubleTensor")
        assert ig.get_default_dtype() is ig.float64 and ig.ones(1).dtype is ig.float64
    finally:
        ig.set_default_tensor_type(ig.FloatTensor)
    with pytest.raises(ValueError, match="invalid type"):
        ig.ones(1).type("torch.NoTensor")


def test_namespaces() -> None:
    import ingot.backends.cudnn as cudnn
    from ingot.__future__ import get_overwrite_module_params_on_conversion

    cudnn.benchmark = True
    assert ig.backends.cudnn is cudnn and not cudnn.is_available() and not get_overwrite_module_params_on_conversion()
    assert not ig.cuda.is_available() and ig.cuda.device_count() == 0 and ig.version.cuda is None
    ig.cuda.manual_seed_all(1), ig.cuda.empty_cache()
    with pytest.raises(AssertionError, match="CUDA"):
        ig.cuda.current_device()
    assert ig.version.__version__ == ig.__version__ and ig.overrides.is_tensor_like(ig.ones(1))
    assert not ig.overrides.is_tensor_like(np.ones(1)) and ig._C._get_tracing_state() is None
    assert ig._has_compatible_shallow_copy_type(ig.ones(1), ig.ones(2))
    with ig.device("cpu"):
        assert ig.ones(1).device.type == "cpu"
    assert ig.device("cuda", 2).index == 2 and str(ig.device("cuda:2")) == "cuda:2"
    device = ig.device("cuda" if ig.cuda.is_available() else "cpu")
    assert device == ig.get_default_device() and ig.pi == np.pi


def test_threads() -> None:
    before = ig.get_num_threads()
    try:
        ig.set_num_threads(1)
        assert ig.get_num_threads() == 1
        x, layer = ig.ones(64, 64), ig.nn.Linear(64, 64)
        np.testing.assert_allclose(ig.compile(layer, x)(x).detach().numpy(), layer(x).detach().numpy(), rtol=1e-5)
        with pytest.raises(RuntimeError, match="positive"):
            ig.set_num_threads(0)
    finally:
        ig.set_num_threads(before)


def test_settings_that_change_nothing() -> None:
    ig.use_deterministic_algorithms(True)
    assert ig.are_deterministic_algorithms_enabled()
    ig.use_deterministic_algorithms(False)
    ig.set_float32_matmul_precision("high")
    assert ig.get_float32_matmul_precision() == "high"
    ig.set_float32_matmul_precision("highest")
    with pytest.raises(ValueError, match="highest"):
        ig.set_float32_matmul_precision("low")
    x = ig.ones(2, requires_grad=True)
    assert ig.conj(x) is x is x.resolve_conj() and not ig.detach(x).requires_grad and ig.get_device(x) == -1
