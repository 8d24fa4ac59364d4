import pytest
import torch

from quantmux.capability.detect import HERE_CPU
from quantmux.errors import BuildError, ConfigError
from quantmux.runtime.prepare import WeightStore


@pytest.fixture
def store_of(shop):
    def make(keep="auto"):
        return WeightStore(shop.weights(), shop.config, HERE_CPU, keep)

    return make


def kernel(shop, name, form, layout):
    shop.consumer(f"one/{name}", layout=layout, form=form)
    return getattr(shop.module, f"one_{name}")


def same(a, b):
    return set(a.named()) == set(b.named()) and all(
        torch.equal(t.view(torch.uint8), b.named()[name].view(torch.uint8))
        for name, t in a.named().items()
    )


def test_a_form_is_prepared_once_for_all_kernels_that_name_it(shop, store_of):
    first, second = kernel(shop, "a", "lossless", "x:y"), kernel(shop, "b", "lossless", "x:y")
    store = store_of()
    form = store.prepared("x:y", first)
    assert store.prepared("x:y", second) is form
    assert second.fault.calls["prepare"] == 0


def test_preparing_changes_no_canonical_tensor_and_twice_gives_the_same_bits(shop, store_of):
    fake = kernel(shop, "a", "lossless", "x:y")
    store, before = store_of(), shop.weights()
    one = store.prepared("x:y", fake)
    two = fake.prepare(store.canonical(), shop.config, HERE_CPU)
    assert same(store.canonical(), before)
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor.view(torch.uint8), two.tensors[name].view(torch.uint8))


@pytest.mark.parametrize("keep", ["auto", "cpu", "never"])
def test_canonical_is_freed_when_the_form_can_be_undone(shop, store_of, keep):
    store = store_of(keep)
    form = store.prepared("x:y", kernel(shop, "a", "lossless", "x:y"))
    both = store.bytes_held
    store.settle({"x:y"})
    assert store.kept is None
    assert store.bytes_held == form.bytes_held < both
    assert same(store.canonical(), shop.weights())


def test_a_lossy_form_keeps_canonical_beside_it(shop, store_of):
    store = store_of("auto")
    form = store.prepared("x:y", kernel(shop, "a", "lossy", "x:y"))
    store.settle({"x:y"})
    assert store.kept is not None
    assert store.bytes_held > form.bytes_held
    assert same(store.canonical(), shop.weights())


def test_keep_cpu_moves_canonical_to_the_host(shop, store_of):
    store = store_of("cpu")
    store.prepared("x:y", kernel(shop, "a", "lossy", "x:y"))
    store.settle({"x:y"})
    assert store.kept.data.device.type == "cpu"
    assert same(store.canonical(), shop.weights())


def test_keep_never_drops_canonical_and_says_so_when_it_is_needed(shop, store_of):
    store = store_of("never")
    store.prepared("x:y", kernel(shop, "a", "lossy", "x:y"))
    store.settle({"x:y"})
    assert store.kept is None
    with pytest.raises(ConfigError, match="keep_canonical"):
        store.canonical()


def test_shared_tensors_are_not_counted_twice_nor_freed(shop, store_of):
    store = store_of("never")
    form = store.prepared("canonical", kernel(shop, "a", "shared", "canonical"))
    store.settle({"canonical"})
    assert store.kept is not None
    assert store.bytes_held == form.bytes_held


def test_small_tensors_survive_a_restore_that_does_not_carry_them(shop):
    from dataclasses import replace

    bias = torch.arange(48.0)
    weights = replace(shop.weights(), bias=bias)
    store = WeightStore(weights, shop.config.replace(bias=True), HERE_CPU)
    store.prepared("x:y", kernel(shop, "a", "lossless", "x:y"))
    store.settle({"x:y"})
    assert store.canonical().bias is bias
    assert store.small("bias") is bias


def test_a_form_that_is_let_go_does_not_take_the_weights_with_it(shop, store_of):
    store = store_of()
    store.prepared("x:y", kernel(shop, "a", "lossless", "x:y"))
    store.settle({"x:y"})
    store.prepared("x:z", kernel(shop, "b", "lossy", "x:z"))
    store.settle({"x:z"})
    assert store.layouts == ("x:z",)
    assert same(store.canonical(), shop.weights())


def test_a_kernel_that_gives_another_form_than_it_named_is_refused(shop, store_of):
    with pytest.raises(BuildError, match="x:other"):
        store_of().prepared("x:y", kernel(shop, "a", "lossless", "x:other"))
