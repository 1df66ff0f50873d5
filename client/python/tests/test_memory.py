"""Memory, regions, planes and layouts."""
import gc
import mmap
import os

import pytest
from conftest import ELEMENTS, HEADS, LAYERS, PAGE, PAGE_TOKENS, PAGES, PLANE, PLANES, ROW

import kveik


def mapped(address):
    with open("/proc/self/maps", encoding="ascii") as maps:
        return any(begin <= address < end for begin, end in
                   ([int(x, 16) for x in line.split()[0].split("-")] for line in maps))


@pytest.fixture
def client(daemon):
    with kveik.Client(daemon.socket) as one:
        yield one


# ---- memory of ours ------------------------------------------------------------------------------
def test_allocate_and_free(client):
    memory = client.allocate(10000)
    assert (memory.nbytes, len(memory.view), memory.address % 4096) == (10000, 10000, 0)
    assert bytes(memory.view) == bytes(10000) and mapped(memory.address)
    memory.view[5:8] = b"abc"
    part = memory.view[5:8]
    with pytest.raises(kveik.Busy, match="in use"):
        memory.free()
    assert bytes(part) == b"abc" and bytes(memory.view[5:8]) == b"abc"
    del part
    memory.free()
    memory.free()
    assert not mapped(memory.address) and "freed" in repr(memory)
    with pytest.raises(kveik.Invalid, match="freed"):
        memory.view


def test_an_array_keeps_memory(client):
    numpy = pytest.importorskip("numpy")
    memory = client.allocate(1 << 16)
    address, array = memory.address, numpy.frombuffer(memory.view, numpy.uint16)
    with pytest.raises(kveik.Busy):
        memory.free()
    del memory
    gc.collect()
    array[:] = 7
    assert array.sum() == 7 * len(array) and mapped(address)
    client.close()
    assert array[3] == 7
    del array
    gc.collect()
    assert not mapped(address)


def test_a_tensor_keeps_memory(client):
    torch = pytest.importorskip("torch")
    memory = client.allocate(1 << 16)
    address, tensor = memory.address, torch.frombuffer(memory.view, dtype=torch.int32)
    with pytest.raises(kveik.Busy):
        memory.free()
    assert mapped(address)
    tensor.fill_(7)
    del memory
    gc.collect()
    assert int(tensor.sum()) == 7 * len(tensor)
    del tensor
    gc.collect()
    assert not mapped(address)


def test_memory_goes_with_its_last_user(client):
    address = client.allocate(4096).address
    gc.collect()
    assert not mapped(address)
    region = client.export(client.allocate(4096))
    gc.collect()
    assert mapped(region.address) and region.mode is kveik.Mode.SHARED
    client.drop_memory(region)
    gc.collect()
    assert not mapped(region.address)


def test_exported_memory_is_freed_after_its_region(client):
    memory = client.allocate(4096)
    region = client.export(memory)
    with pytest.raises(kveik.Busy):
        memory.free()
    client.drop_memory(region)
    memory.free()
    with pytest.raises(kveik.UnknownId):
        client.drop_memory(region)


def test_allocating_nothing_or_too_much(client):
    with pytest.raises(kveik.Invalid, match="0 bytes"):
        client.allocate(0)
    with pytest.raises(kveik.Error):
        client.allocate(1 << 60)


# ---- memory of others ----------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["auto", "adopt", "cross", kveik.Mode.CROSS])
def test_buffers_of_python(client, mode):
    pages = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[0:4] = b"here"
    try:
        region = client.export(pages, mode=mode)
    except (kveik.Unsupported, kveik.Permission) as error:
        pytest.skip(str(error))
    assert region.nbytes == 1 << 16 and pages[0:4] == b"here"
    with pytest.raises(BufferError):
        pages.close()
    client.drop_memory(region)
    pages.close()


def test_a_memfd_of_the_callers(client):
    memfd = os.memfd_create("engine", os.MFD_ALLOW_SEALING)
    os.truncate(memfd, 1 << 16)
    pages = mmap.mmap(memfd, 1 << 16)
    region = client.export(pages, mode="shared", memfd=memfd)
    assert region.mode is kveik.Mode.SHARED
    client.drop_memory(region.handle)
    os.close(memfd)


def test_what_cannot_be_exported(client):
    numpy = pytest.importorskip("numpy")
    with pytest.raises(kveik.Invalid, match="negative stride"):
        client.export(numpy.zeros((4, 4))[::-1])
    with pytest.raises((BufferError, ValueError, TypeError)):
        client.export(b"constant")
    fixed = numpy.zeros(4)
    fixed.flags.writeable = False
    with pytest.raises(kveik.Invalid, match="read-only"):
        client.export(fixed)
    with pytest.raises(kveik.Invalid, match="mode is 'magic'"):
        client.export(bytearray(4096), mode="magic")
    with pytest.raises(kveik.Invalid):
        client.export(bytearray())

    class OnDevice:
        device = type("Device", (), {"type": "cuda", "__str__": lambda self: "cuda:0"})()

        def data_ptr(self):
            raise AssertionError("not asked for")
    with pytest.raises(kveik.Unsupported, match="cuda:0"):
        client.export(OnDevice())


def moves(client, array, axes, page_of):
    """Pushes page 0 of an array and pulls it into page 5."""
    region = client.export(array)
    planes = kveik.planes_of(array, region, axes)
    space = client.register_space("moves", "bfloat16", [
        kveik.Group(layers=LAYERS, heads=HEADS, kinds=(ELEMENTS, ELEMENTS))])
    layout = client.register_layout(space, page_tokens=PAGE_TOKENS, page_count=PAGES,
                                    head_count=HEADS, planes=planes)
    keys = kveik.hash_tokens(range(16), extras=[(0, os.urandom(8))])
    client.push(kveik.PushRun(layout, keys, [0])).check()
    assert client.pull(kveik.PullRun(layout, keys, [5])).check().failed_indices() == []
    assert (page_of(0) == page_of(5)).all()
    client.drop_memory(region)


@pytest.mark.parametrize("axes", [
    "layer kind page token head element", "kind page token head layer element",
    "page layer kind head token element", "layer page kind token head element"])
def test_numpy_arrays_of_any_order(client, axes):
    numpy = pytest.importorskip("numpy")
    size = {"layer": LAYERS, "kind": 2, "page": PAGES, "token": 16, "head": HEADS,
            "element": ELEMENTS}
    names = axes.split()
    array = numpy.random.default_rng(1).integers(0, 60000, [size[name] for name in names],
                                                 dtype=numpy.uint16)
    moves(client, array, axes, lambda page: array.take(page, names.index("page")))


def test_torch_tensors(client):
    torch = pytest.importorskip("torch")
    tensor = torch.rand(LAYERS, 2, PAGES, HEADS, 16, ELEMENTS).to(torch.bfloat16)
    moves(client, tensor, "layer kind page head token element", lambda page: tensor[:, :, page])
    view = tensor.transpose(3, 4)
    moves(client, view, "layer kind page token head element", lambda page: tensor[:, :, page])


def test_planes_by_hand_and_by_array_are_the_same(client):
    numpy = pytest.importorskip("numpy")
    memory = client.allocate(PLANES * PLANE)
    region = client.export(memory)
    array = numpy.frombuffer(memory.view, numpy.uint16).reshape(
        LAYERS, 2, PAGES, PAGE_TOKENS, HEADS, ELEMENTS)
    expected = [kveik.Plane(region, plane * PLANE, PAGE, ROW, ELEMENTS * 2, 2)
                for plane in range(PLANES)]
    assert kveik.planes_of(array, region, "layer kind page token head element") == expected
    assert kveik.planes_of(array[1, 1], region, "page token head element") == expected[3:]
    with pytest.raises(kveik.Invalid, match="must name the 4 axes"):
        kveik.planes_of(array[0, 0], region, "page token head")
    with pytest.raises(kveik.Invalid, match="out of"):
        kveik.planes_of(array[0, 0], region, "page token head elephant")
    with pytest.raises(kveik.Invalid, match="the array lies at"):
        kveik.planes_of(numpy.zeros((4, 4)), region, "page element")
    del array


# ---- spaces and layouts --------------------------------------------------------------------------
def test_spaces(client):
    group = kveik.Group(layers=1, heads=1, kinds=(8,))
    one = client.register_space("m", kveik.Dtype.BF16, [group], revision="a", rope_id=bytes(32))
    for dtype in ("bf16", "BF16", "bfloat16", "torch.bfloat16", 2):
        client.register_space("m", dtype, [group], revision="a", rope_id=bytes(32))
    assert one > 0
    client.register_space("m", "fp8", [kveik.Group(1, 1, (0,), rule="window", window_tokens=64,
                                                   opaque=True),
                                       kveik.Group(1, 1, (0, 0), rule=kveik.Rule.STATE,
                                                   opaque=True)],
                          fingerprint=b"build 7", isolation=b"alone", quota_bytes=1 << 20)
    with pytest.raises(kveik.Invalid, match="dtype is 'int7'"):
        client.register_space("m", "int7", [group])
    with pytest.raises(kveik.Invalid, match="rule is 'some'"):
        client.register_space("m", "bf16", [kveik.Group(1, 1, (8,), rule="some")])
    with pytest.raises(kveik.Invalid, match="rope_id has 3 bytes"):
        client.register_space("m", "bf16", [group], rope_id=b"abc")
    with pytest.raises(kveik.Invalid, match="5 kinds"):
        client.register_space("m", "bf16", [kveik.Group(1, 1, (8,) * 5)])
    with pytest.raises(kveik.Invalid):
        client.register_space("m", "bf16", [])


class Indexing:
    """An engine's own way to its pages."""

    def __init__(self, engine, wrong=False):
        self.view, self.wrong, self.calls = engine.memory.view, wrong, 0

    def place(self, layer, kind, page, token, head):
        at = (2 * layer + kind) * PLANE + page * PAGE + token * ROW + head * ELEMENTS * 2
        return at if not (self.wrong and token == 3) else at + ROW

    def fill(self, layer, kind, page, token, head, data):
        at = self.place(layer, kind, page, token, head)
        self.view[at:at + len(data)] = data

    def check(self, layer, kind, page, token, head, data):
        self.calls += 1
        at = self.place(layer, kind, page, token, head)
        return self.view[at:at + len(data)] == data


def register(engine, **more):
    return engine.client.register_layout(engine.space, page_tokens=PAGE_TOKENS, page_count=PAGES,
                                         head_count=HEADS, planes=engine.planes(), **more)


def test_a_layout_proves_itself(engine):
    engine.fill(0, 3)
    before = engine.page(0)
    good = Indexing(engine)
    layout = register(engine, fill=good.fill, check=good.check)
    assert good.calls > 0 and engine.page(0) == before
    engine.client.drop_layout(layout)
    with pytest.raises(kveik.UnknownId):
        engine.client.drop_layout(layout)
    wrong = Indexing(engine, wrong=True)
    with pytest.raises(kveik.Mismatch, match="token"):
        register(engine, fill=wrong.fill, check=wrong.check)


def test_what_callbacks_raise_comes_out(engine):
    good = Indexing(engine)

    def broken(*_):
        raise RuntimeError("the engine's own mistake")
    with pytest.raises(RuntimeError, match="own mistake"):
        register(engine, fill=broken, check=good.check)
    with pytest.raises(RuntimeError, match="own mistake"):
        register(engine, fill=good.fill, check=broken)
    with pytest.raises(kveik.Invalid, match="close.. in a callback"):
        register(engine, fill=lambda *_: engine.client.close(), check=good.check)
    with pytest.raises(kveik.Invalid, match="go together"):
        register(engine, fill=good.fill)
    register(engine)


def test_layouts_that_do_not_fit(engine):
    planes = engine.planes()
    for change, kind, words in (
            ({"planes": planes[:3]}, kveik.Invalid, "3 planes for 1 layers of 2 kinds"),
            ({"layer_count": 1}, kveik.Invalid, "4 planes for 1 layers"),
            ({"planes": []}, kveik.Mismatch, "layers"), ({"space": 999}, kveik.UnknownId, "space"),
            ({"group": 1, "layer_count": 4}, kveik.Mismatch, "group 1"),
            ({"page_count": PAGES + 1}, kveik.Invalid, "ends at byte"),
            ({"planes": [planes[0]] * 4}, kveik.Mismatch, None),
            ({"planes": [kveik.Plane(77, 0, PAGE, ROW, 16, 2)] * 4}, kveik.UnknownId, "region 77")):
        with pytest.raises(kind, match=words):
            engine.client.register_layout(**{
                "space": engine.space, "page_tokens": PAGE_TOKENS, "page_count": PAGES,
                "head_count": HEADS, "planes": planes, **change})


def test_opaque_pages(client):
    numpy = pytest.importorskip("numpy")
    memory = client.allocate(3 * 4 * 1000)
    region = client.export(memory)
    array = numpy.frombuffer(memory.view, numpy.uint8).reshape(3, 4, 1000)
    space = client.register_space("opaque", "u8", [kveik.Group(3, 1, (0,), opaque=True)],
                                  fingerprint=b"packed my way")
    layout = client.register_layout(space, page_tokens=16, page_count=4, page_bytes=1000,
                                    planes=kveik.planes_of(array, region, "layer page element"))
    array[:, 0] = numpy.random.default_rng(2).integers(0, 256, (3, 1000))
    keys = kveik.hash_tokens(range(16), extras=[(0, os.urandom(8))])
    client.push(kveik.PushRun(layout, keys, [0])).check()
    client.pull(kveik.PullRun(layout, keys, [3])).check()
    assert (array[:, 0] == array[:, 3]).all()
