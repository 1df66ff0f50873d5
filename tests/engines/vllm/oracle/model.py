"""Instead of a model: KV whose every byte is known.

Token t at position p of a sequence has a state h(p), a hash over all tokens up to p and what else
decides the KV (salt, adapter, images from where they begin). Its row in layer l and head k is a
function of h(p), l and k alone. The next token is a function of all rows that attention reads, so
that one wrong byte changes it.
"""
import numpy

ROW_WORDS = 8  # 64 bits each: K and V of one head and token
_MASK = (1 << 64) - 1
_MULTIPLY = 0x9E3779B97F4A7C15
_FINISH = numpy.uint64(0xBF58476D1CE4E5B9)
VOCABULARY = 509


def mix(value):
    """A 64-bit hash of a 64-bit number."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def seed_of(text):
    """A number for what is no token."""
    number = 0
    for byte in text.encode():
        number = mix(number ^ byte + 1)
    return number


class Sequence:
    """The states of a sequence that grows. `extras`: [(position, text)]."""

    def __init__(self, tokens=(), extras=()):
        self.extras = {}
        for position, text in extras:
            self.extras[position] = mix(self.extras.get(position, 7) ^ seed_of(text))
        self.tokens = []
        self.states = numpy.zeros(64, numpy.uint64)
        self._last = 1
        self.extend(tokens)

    def extend(self, tokens):
        """More tokens."""
        for token in tokens:
            position = len(self.tokens)
            self._last = mix(self._last ^ (token + 1) * _MULTIPLY & _MASK ^
                             self.extras.get(position, 0))
            if position == len(self.states):
                self.states = numpy.concatenate([self.states, numpy.zeros_like(self.states)])
            self.states[position] = self._last
            self.tokens.append(token)

    def truncate(self, count):
        """Only the first `count` tokens stay."""
        del self.tokens[count:]
        self._last = int(self.states[count - 1]) if count else 1


class Shape:
    """Layers with their windows (0: all of the past), and the heads of the whole model."""

    def __init__(self, windows, heads):
        self.windows = windows
        self.heads = heads
        draw = numpy.random.default_rng(12)
        self._salts = draw.integers(0, 1 << 63, (len(windows), heads, ROW_WORDS), numpy.uint64)

    def rows(self, states, layer, heads):
        """[head, position, word] of these positions."""
        words = states[None, :, None] ^ self._salts[layer, heads][:, None, :]
        words = (words ^ (words >> numpy.uint64(29))) * _FINISH
        return words ^ (words >> numpy.uint64(32))

    def reads(self, layer, begin, end):
        """The first position that a query of [begin, end) reads in this layer."""
        window = self.windows[layer]
        return max(0, begin - window + 1) if window else 0

    def digest(self, layer, rows):
        """What a layer makes of the rows that the last query reads; those of all heads add up."""
        places = numpy.arange(1, rows.shape[1] + 1, dtype=numpy.uint64)[None, :, None]
        return int((rows * (places * numpy.uint64(2 * layer + 1))).sum(dtype=numpy.uint64))

    def token_of(self, digest, position):
        """The next token."""
        return mix(digest ^ position) % VOCABULARY

    def generate(self, tokens, count, extras=()):
        """What the model says after `tokens`, without any cache."""
        sequence = Sequence(tokens, extras)
        for _ in range(count):
            end = len(sequence.tokens)
            digest = 0
            for layer in range(len(self.windows)):
                first = self.reads(layer, end - 1, end)
                rows = self.rows(sequence.states[first:end], layer, slice(0, self.heads))
                digest += self.digest(layer, rows)
            sequence.extend([self.token_of(digest & _MASK, end)])
        return sequence.tokens[len(tokens):]
