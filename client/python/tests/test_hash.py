"""Keys, and every form in which tokens can come."""
import array
import hashlib
import struct

import pytest

import kveik


def by_the_book(tokens, parent=None, extras=()):
    """As the header defines it."""
    key, out = parent or hashlib.sha256(b"kveik/prefix/1").digest(), b""
    for at in range(0, len(tokens), 16):
        grain = tokens[at:at + 16]
        more = b"".join(struct.pack("<II", position - at, len(data)) + data
                        for position, data in extras if at <= position < at + 16)
        key = hashlib.sha256(key + struct.pack("<HH", len(grain), len(more)) +
                             struct.pack(f"<{len(grain)}I", *grain) + more).digest()
        out += key
    return out


def test_keys_are_as_defined():
    tokens = [7 * i for i in range(40)]
    extras = [(0, b"adapter"), (20, b"image"), (20, b"")]
    keys = kveik.hash_tokens(tokens, extras=extras)
    assert keys == by_the_book(tokens, extras=extras) and len(keys) == 3 * kveik.KEY_BYTES
    assert kveik.hash_tokens(tokens[16:], parent=keys[:32], extras=[(4, b"image"), (4, b"")]) \
        == keys[32:]
    assert kveik.Hasher().hash_tokens(tokens, extras=extras) == keys
    assert kveik.hash_tokens([]) == b""


@pytest.mark.parametrize("code", "bBhHiIlLqQ")
def test_every_kind_of_array(code):
    tokens = list(range(100))
    assert kveik.hash_tokens(array.array(code, tokens)) == by_the_book(tokens)
    assert kveik.hash_tokens(memoryview(array.array(code, tokens))[::2]) == by_the_book(tokens[::2])


def test_sequences():
    expected = by_the_book(list(range(33)))
    for tokens in (range(33), tuple(range(33)), iter(range(33)), (i for i in range(33))):
        assert kveik.hash_tokens(tokens) == expected


def test_numpy():
    numpy = pytest.importorskip("numpy")
    tokens = numpy.arange(50)
    expected = by_the_book(list(range(50)))
    for kind in (numpy.int64, numpy.int32, numpy.uint32, numpy.uint64, numpy.int16, numpy.uint8):
        assert kveik.hash_tokens(tokens.astype(kind)) == expected
    assert kveik.hash_tokens(numpy.arange(100)[::2]) == by_the_book(list(range(0, 100, 2)))
    assert kveik.hash_tokens(list(tokens)) == expected
    for wrong in (tokens.astype(float), tokens.reshape(5, 10), tokens.astype(bool)):
        with pytest.raises(TypeError, match="one dimension of integers"):
            kveik.hash_tokens(wrong)


def test_torch():
    torch = pytest.importorskip("torch")
    expected = by_the_book(list(range(50)))
    for kind in (torch.int64, torch.int32, torch.uint8):
        assert kveik.hash_tokens(torch.arange(50).to(kind)) == expected
    assert kveik.hash_tokens(torch.arange(100)[::2]) == by_the_book(list(range(0, 100, 2)))
    with pytest.raises(TypeError, match="one dimension of integers"):
        kveik.hash_tokens(torch.zeros(3))


@pytest.mark.parametrize("code, wrong, place", [("q", 2**32, 5), ("q", -1, 0), ("i", -3, 9),
                                                ("Q", 2**40, 9), ("h", -1, 1), ("b", -1, 2)])
def test_numbers_that_do_not_fit(code, wrong, place):
    tokens = array.array(code, range(10))
    tokens[place] = wrong
    with pytest.raises(kveik.Invalid, match=f"tokens: the number at place {place}"):
        kveik.hash_tokens(tokens)


@pytest.mark.parametrize("extras", [[(3, b""), (2, b"")], [(16, b"")], [(0, bytes(1025))]])
def test_extras_that_do_not_fit(extras):
    with pytest.raises(kveik.Invalid, match="extras must be sorted"):
        kveik.hash_tokens(range(16), extras=extras)


def test_parents_that_do_not_fit():
    with pytest.raises(kveik.Invalid, match="32"):
        kveik.hash_tokens(range(16), parent=b"short")
