#!/usr/bin/env python3
"""`kveik bench` runs and says everything that it is for. No figure is judged here.

Covers: client/cli/bench.c, client/cli/bench_daemon.c, client/cli/bench_engine.c,
client/cli/bench_engines.c, client/cli/bench_index.c, client/cli/bench_limit.c,
client/cli/bench_machine.c, client/cli/bench_place.c, client/cli/bench_redis.c,
client/cli/bench_small.c, client/cli/bench_transfer.c
"""
import glob
import os
import shutil
import unittest

import kveik_test
from kveik_test import FAILED, UNREACHABLE, USAGE, Daemon

NOWHERE = "/nonexistent/kveik.sock"
SHAPES, DEPTHS, SIZES, COUNTS = ("32k", "512k"), (1, 4, 16), ("1e3", "1e4", "1e5"), (1, 100, 1000)


def wanted_fields(places):
    for shape in SHAPES:
        yield from (f"copy_limit_gbps_{shape}", f"memcpy_gbps_{shape}", f"convert_ratio_{shape}")
        for depth in DEPTHS:
            for way in ("push", "pull"):
                yield from (f"{way}_gbps_{shape}_{depth}", f"{way}_ratio_{shape}_{depth}")
    yield from ("cross_push_ratio_32k", "cross_pull_ratio_32k", "engines_4_gbps",
                "hash_us_per_1000_blocks", "index_bytes_per_block", "push_cost_growth",
                "longest_push_of_1000_us")
    for place in places:
        yield from (f"ping_us_p50_{place}", f"small_pull_us_p50_{place}",
                    f"small_pull_us_p99_{place}", f"small_pull_ratio_{place}")
        for size in SIZES:
            yield f"lookup_ratio_at_{size}_{place}"
            for count in COUNTS:
                yield from (f"lookup_us_p50_{count}_at_{size}_{place}",
                            f"lookup_us_p99_{count}_at_{size}_{place}")


class Bench(kveik_test.TestCase):
    def check(self, result, places):
        for field in wanted_fields(places):
            self.assertIn(field, result["metrics"])
            metric = result["metrics"][field]
            self.assertGreater(metric["median"], 0, field)
            self.assertGreaterEqual(metric["max"], metric["median"], field)
            self.assertGreater(metric["samples"], 0, field)
            self.assertEqual("met" in metric, "at_least" in metric or "at_most" in metric, field)
        for fact in ("cpu", "cores", "last_cache_bytes", "kernel", "working_bytes", "version"):
            self.assertIn(fact, result["facts"])
        self.assertTrue(result["facts"]["quick"])

    def test_local(self):
        before = set(glob.glob("/tmp/kveik-bench-*"))
        result = self.good_json("bench", "local", "--quick")
        places = ("near", "far") if len(os.sched_getaffinity(0)) > 1 else ("near",)
        self.check(result, places)
        self.assertEqual(set(glob.glob("/tmp/kveik-bench-*")), before, "folders stay behind")

    def test_local_with_the_daemon_that_is_there(self):
        with Daemon(cpu_bytes="1GiB") as daemon:
            self.check(self.good_json("bench", "local", "--quick", socket=daemon.socket),
                       ("anywhere",))

    def test_table(self):
        text = self.good("bench", "local", "--quick")
        for words in ("wanted", "met", "spread", ">= 0.9", "pull_ratio_512k_4"):
            self.assertIn(words, text)

    @unittest.skipUnless(shutil.which("redis-server"), "no redis-server")
    def test_against_redis(self):
        metrics = self.good_json("bench", "local", "--quick", "--against", "redis")["metrics"]
        self.assertGreater(metrics["redis_push_gbps"]["median"], 0)
        self.assertGreater(metrics["redis_pull_gbps"]["median"], 0)

    def test_list(self):
        for words in ((), ("--help",)):
            self.assertIn("local", self.good("bench", *words))
        self.refused(USAGE, ["there is no benchmark"], "bench", "everything")

    def test_no_daemon(self):
        self.refused(UNREACHABLE, [NOWHERE], "bench", "local", "--quick", socket=NOWHERE)
        done = kveik_test.kveik("bench", "local", "--quick", "--kveikd", "/nonexistent/kveikd")
        self.assertIn(done.returncode, (FAILED, UNREACHABLE))
        self.assertIn("kveikd", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
