#!/usr/bin/env python3
"""kveik replay against a running kveikd: its hits are those of an independent simulation."""
import json
import sys
import tempfile
import threading
import unittest

import kveik_test
from kveik_test import FAILED, SAMPLE, UNREACHABLE, USAGE, Daemon, ROOT

sys.path.insert(0, str(ROOT / "tests/tools"))
import lru_sim  # noqa: E402

QWEN = [
    {"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 40, "output_length": 9,
     "type": "text", "turn": 1, "hash_ids": [1, 2, 3]},
    {"chat_id": 2, "parent_chat_id": 1, "timestamp": 0.75, "input_length": 64, "output_length": 9,
     "type": "text", "turn": 2, "hash_ids": [1, 2, 4, 5]},
    {"chat_id": 3, "parent_chat_id": 2, "timestamp": 1.0, "input_length": 64, "output_length": 9,
     "type": "text", "turn": 3, "hash_ids": [1, 2, 4, 5]},
]


def lines_of(requests):
    return "".join(json.dumps(request) + "\n" for request in requests)


class Hits(kveik_test.TestCase):
    """Counted by the daemon, and by the simulation, from the same file."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = cls.enterClassContext(Daemon())
        cls.trace, cls.id_tokens = lru_sim.read(SAMPLE)

    def replay(self, *arguments, given=None, path=SAMPLE):
        return self.good_json("replay", path, *arguments, socket=self.daemon.socket, given=given)

    def compare(self, cache_blocks, block_tokens, *arguments):
        result = self.replay("--cache-blocks", cache_blocks, "--block-tokens", block_tokens,
                             *arguments)
        chunk = 0 if "--plain-lru" in arguments else result["chunk_blocks"]
        references, hits = lru_sim.simulate(self.trace, self.id_tokens, block_tokens, cache_blocks,
                                            chunk)
        self.assertEqual(result["requests"], len(self.trace))
        self.assertEqual(result["references"], references)
        self.assertEqual(result["hits"], hits)
        self.assertEqual(result["errors"], {})
        self.assertEqual(result["refused_blocks"], 0)
        self.assertEqual(result["missed_blocks"], 0)
        return result

    def test_as_the_daemon_evicts(self):
        for cache_blocks in (1, 7, 50, 300, 1000, 2500, 4000, 0):
            with self.subTest(cache_blocks=cache_blocks):
                self.compare(cache_blocks, 512, "--block-bytes", "1KiB")

    def test_as_plain_lru(self):
        for cache_blocks in (1, 50, 1000, 4000):
            with self.subTest(cache_blocks=cache_blocks):
                self.compare(cache_blocks, 512, "--block-bytes", "1KiB", "--plain-lru")

    def test_blocks_that_subdivide(self):
        self.compare(20000, 64, "--block-bytes", "512")

    def test_blocks_that_join(self):
        self.compare(1500, 1024, "--block-bytes", "2KiB")

    def test_every_byte(self):
        result = self.compare(3000, 512, "--block-bytes", "8KiB", "--layers", "2", "--heads", "2",
                              "--verify")
        self.assertEqual(result["wrong_bytes"], 0)
        self.assertGreater(result["hits"], 0)
        self.assertEqual(result["pulled_bytes"], result["hits"] * 8192)
        self.assertEqual(result["pushed_bytes"], result["stored_blocks"] * 8192)

    def test_large_blocks(self):
        result = self.replay("--requests", "20", "--block-bytes", "256KiB", "--cache-bytes",
                             "64MiB", "--verify")
        self.assertEqual(result["cache_blocks"], 256)
        self.assertEqual(result["wrong_bytes"], 0)

    def test_many_at_once(self):
        result = self.replay("--engines", "2", "--in-flight", "4", "--block-bytes", "4KiB",
                             "--verify")
        self.assertEqual(result["requests"], len(self.trace))
        self.assertEqual(result["wrong_bytes"], 0)
        self.assertEqual(result["missed_blocks"], 0)
        self.assertEqual(result["stored_blocks"] + result["held_blocks"] + result["hits"],
                         result["references"])

    def test_other_ways_to_share_memory(self):
        for memory in ("adopt", "cross"):
            with self.subTest(memory=memory):
                result = self.replay("--requests", "50", "--memory", memory, "--block-bytes",
                                     "4KiB", "--verify")
                self.assertEqual(result["wrong_bytes"], 0)
                self.assertGreater(result["hits"], 0)

    def test_qwen_from_standard_input(self):
        result = self.replay("--block-bytes", "512", "--verify", path="-", given=lines_of(QWEN))
        self.assertEqual((result["references"], result["unique"], result["hits"]), (11, 5, 6))
        self.assertEqual(result["block_tokens"], 16)

    def test_the_traces_clock(self):
        result = self.replay("--block-bytes", "512", "--speed", "5", path="-",
                             given=lines_of(QWEN))
        self.assertGreaterEqual(result["wall_s"], 0.09)
        self.assertEqual(result["hits"], 6)

    def test_it_is_forgotten(self):
        self.replay("--block-bytes", "4KiB")
        status = self.good_json("status", socket=self.daemon.socket)
        self.assertLess(status["index"]["blocks"], 100)
        self.assertEqual(status["cpu"]["leased_bytes"], 0)

    def test_the_table(self):
        text = self.good("replay", SAMPLE, "--requests", "20", socket=self.daemon.socket)
        for word in ("requests", "hit ratio", "lookup", "pull", "push", "p99 us"):
            self.assertIn(word, text)


class Refusals(kveik_test.TestCase):
    def refused_trace(self, lines, *words):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.write(lines)
            file.flush()
            self.refused(USAGE, (file.name, *words), "replay", file.name)

    def test_bad_lines(self):
        good = lines_of([{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}])
        self.refused_trace(good + "{\n", "line 2", "no JSON")
        self.refused_trace(good + good + '{"timestamp": 0}\n', "line 3", '"input_length"')
        self.refused_trace("\n", "holds no request")

    def test_bad_options(self):
        self.refused(USAGE, ["No such file"], "replay", "/nonexistent.jsonl")
        self.refused(USAGE, ["one FILE"], "replay")
        self.refused(USAGE, ["1024"], "replay", SAMPLE, "--block-bytes", "1000")
        self.refused(USAGE, ["multiple of 16"], "replay", SAMPLE, "--block-tokens", "24")
        self.refused(USAGE, ["give one of them"], "replay", SAMPLE, "--cache-blocks", "5",
                     "--cache-bytes", "1MiB")
        self.refused(USAGE, ["--in-flight"], "replay", SAMPLE, "--in-fligth", "4")
        self.refused(USAGE, ["one engine"], "replay", SAMPLE, "--plain-lru", "--engines", "2")

    def test_no_daemon(self):
        self.refused(UNREACHABLE, ["kveikd"], "replay", SAMPLE, socket="/nonexistent/e.sock")

    def test_the_daemon_dies(self):
        daemon = Daemon()
        with daemon:
            timer = threading.Timer(0.5, daemon.process.kill)
            timer.start()
            done = kveik_test.kveik("replay", SAMPLE, "--speed", "1", socket=daemon.socket)
            timer.join()
            daemon.process.wait()
            daemon.process.returncode = 0  # killed by us
        self.assertEqual(done.returncode, FAILED, done.stderr)
        self.assertIn("engine 0 failed", done.stderr)


if __name__ == "__main__":
    unittest.main()
