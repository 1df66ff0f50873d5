"""What must be found, worked out from the prompts alone."""
import hashlib


class Held:
    """The prefixes of whole blocks that were saved so far."""

    def __init__(self, block_tokens):
        self.block_tokens = block_tokens
        self.names = set()

    def prefixes(self, tokens, salt=""):
        """A name for each prefix of whole blocks, the shortest first."""
        names, running = [], hashlib.sha256(salt.encode())
        for end in range(self.block_tokens, len(tokens) + 1, self.block_tokens):
            running.update(b"".join(token.to_bytes(4, "little")
                                    for token in tokens[end - self.block_tokens:end]))
            names.append(running.digest())
        return names

    def add(self, tokens, salt=""):
        """What an engine has saved of a prompt with its answer: all but the last token, whose KV
        nobody computed."""
        self.names.update(self.prefixes(tokens[:-1], salt))

    def hit(self, tokens, salt="", more=()):
        """Tokens found of a prompt, of which at least one is left to compute. `more` are further
        names that count."""
        blocks = 0
        for name in self.prefixes(tokens[:-1], salt):
            if name not in self.names and name not in more:
                break
            blocks += 1
        return blocks * self.block_tokens


def after(held, requests, answers):
    """Adds what an engine saved of these requests."""
    for one in requests:
        held.add(one.tokens + answers[one.id].tokens, one.salt or "")
    return held
