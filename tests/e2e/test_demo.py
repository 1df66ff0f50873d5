#!/usr/bin/env python3
"""`kveik demo`: two engines share a cache, and nothing that happens to the daemon hurts them.

Covers: client/cli/demo.c, client/cli/demo_crew.c, client/cli/demo_engine.c,
client/cli/demo_serve.c, client/cli/demo_report.c
"""
import json
import os
import signal
import subprocess
import time
import unittest

import kveik_test
from kveik_test import GOOD, UNREACHABLE, USAGE, Daemon

NOWHERE = "/nonexistent/kveik.sock"
SMALL = ("--model", "tiny", "--context", "256", "--scale", "16")
BEGIN_S, END_S = 30, 120


def children(pid):
    path = f"/proc/{pid}/task/{pid}/children"
    with open(path, encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


class Demo(kveik_test.TestCase):
    def test_two_engines_share(self):
        with Daemon() as daemon:
            result = self.good_json("demo", *SMALL, socket=daemon.socket)
        totals = result["totals"]
        self.assertTrue(result["good"])
        self.assertEqual(totals["requests"], result["choice"]["served"])
        self.assertGreater(totals["requests"], 50)
        self.assertEqual(totals["logits_identical"], totals["requests"])
        self.assertEqual(totals["kv_identical"], totals["requests"])
        self.assertEqual((totals["failed"], totals["without_cache"]), (0, 0))
        self.assertGreater(totals["own_tokens"], 0)
        self.assertGreater(totals["other_tokens"], 0)
        self.assertEqual(totals["hit_tokens"], totals["own_tokens"] + totals["other_tokens"])
        engines = {row["engine"] for row in result["requests"] if row["other_tokens"] > 0}
        self.assertEqual(engines, {"engine-A", "engine-B"})

    def test_rows_and_totals_for_people(self):
        with Daemon() as daemon:
            text = self.good("demo", *SMALL, "--requests", "8", "--all", socket=daemon.socket)
        for words in ("Two engine processes", "speed-up", "identical", "time to first token",
                      "8 of 8", "found in the cache"):
            self.assertIn(words, text)

    def test_a_run_begins_cold_unless_told(self):
        with Daemon() as daemon:
            for _ in range(2):
                result = self.good_json("demo", *SMALL, "--requests", "2", "--all",
                                        socket=daemon.socket)
                self.assertEqual(result["requests"][0]["hit_tokens"], 0)
            self.good("demo", *SMALL, "--requests", "2", "--all", "--warm", socket=daemon.socket)
            result = self.good_json("demo", *SMALL, "--requests", "2", "--all", "--warm",
                                    socket=daemon.socket)
            self.assertGreater(result["requests"][0]["hit_tokens"], 150)

    def test_a_trace_of_ones_own(self):
        with Daemon() as daemon:
            result = self.good_json("demo", *SMALL, "--trace", kveik_test.SAMPLE, "--window", "150",
                                    socket=daemon.socket)
            self.assertEqual(result["choice"]["window"], 150)
            self.refused(USAGE, ["/nonexistent"], "demo", "--trace", "/nonexistent",
                         socket=daemon.socket)
            self.refused(USAGE, ["--window", "--all"], "demo", "--window", "3",
                         socket=daemon.socket)

    def test_no_daemon(self):
        done = self.refused(UNREACHABLE, [NOWHERE, "What to do"], "demo", socket=NOWHERE)
        self.assertEqual(done.stdout, "")


class BadDays(kveik_test.TestCase):
    def start(self, daemon, *arguments):
        words = [kveik_test.BIN / "kveik", "demo", "--socket", daemon.socket, *arguments]
        return subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True,
                                env=kveik_test.environment())

    def read_rows(self, process, count):
        """Reads until so many requests were answered."""
        lines = []
        while sum("identical" in line for line in lines) < count:
            line = process.stdout.readline()
            self.assertNotEqual(line, "", "".join(lines))
            lines.append(line)
        return lines

    def test_the_daemon_is_killed_in_the_middle(self):
        daemon = Daemon()
        try:
            daemon.__enter__()
            process = self.start(daemon, *SMALL, "--context", "1024", "--scale", "64")
            lines = self.read_rows(process, 5)
            daemon.process.send_signal(signal.SIGKILL)
            text = "".join(lines) + process.communicate(timeout=END_S)[0]
        finally:
            daemon.process.kill()
            daemon.process.wait()
        self.assertEqual(process.returncode, GOOD, text)
        self.assertIn("without the cache", text)
        self.assertIn("cache not available", text)
        self.assertIn("85 of 85", text)

    def test_an_engine_is_killed_in_the_middle(self):
        with Daemon() as daemon:
            process = self.start(daemon, *SMALL, "--context", "1024", "--scale", "64")
            self.read_rows(process, 3)
            os.kill(children(process.pid)[0], signal.SIGKILL)
            text = process.communicate(timeout=END_S)[0]
        self.assertEqual(process.returncode, 1, text)
        self.assertIn("failed: the engine's process ended", text)
        self.assertIn("1 failed", text)

    def test_engines_end_with_the_demo(self):
        with Daemon() as daemon:
            process = self.start(daemon, *SMALL, "--context", "1024", "--scale", "64")
            self.read_rows(process, 2)
            engines = children(process.pid)
            self.assertEqual(len(engines), 2)
            process.kill()
            process.communicate(timeout=END_S)
            deadline = time.monotonic() + BEGIN_S
            while any(os.path.exists(f"/proc/{pid}/exe") and
                      os.path.realpath(f"/proc/{pid}/exe").endswith("/kveik") for pid in engines):
                self.assertLess(time.monotonic(), deadline, "engines outlive the demo")
                time.sleep(0.05)
            status = self.good_json("status", socket=daemon.socket)
            self.assertLessEqual(status["sessions"], 1, json.dumps(status))


if __name__ == "__main__":
    unittest.main(verbosity=2)
