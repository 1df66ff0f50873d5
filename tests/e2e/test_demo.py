#!/usr/bin/env python3
"""`kveik demo`: two engines share a cache, and nothing that happens to the daemon hurts them.

Covers: client/cli/demo.c, client/cli/demo_crew.c, client/cli/demo_engine.c,
client/cli/demo_serve.c, client/cli/demo_report.c, client/cli/demo_restart.c
"""
import json
import os
import signal
import subprocess
import threading
import time
import unittest

import kveik_test
from kveik_test import FAILED, GOOD, UNREACHABLE, USAGE, Daemon

NOWHERE = "/nonexistent/kveik.sock"
SMALL = ("--model", "tiny", "--context", "256", "--scale", "16")
SEGMENTS = ("--disk-segment-bytes", "16MiB")
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


class Restarts(kveik_test.TestCase):
    """A restart in the middle: the command asks this process for it, which owns the daemon."""

    def during(self, daemon, action):
        """A shell command that has `action` done here and ends when it is done; and the thread."""
        asked, done = daemon.folder / "asked", daemon.folder / "done"
        os.mkfifo(asked)
        os.mkfifo(done)

        def serve():
            with open(asked, encoding="ascii") as pipe:
                pipe.read()
            try:
                action()
            finally:
                with open(done, "w", encoding="ascii") as pipe:
                    pipe.write("done\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        return f"echo now > {asked}; read word < {done}; echo 'on stdout, and yet no JSON'", thread

    def restart(self, daemon):
        self.assertEqual(daemon.stop(), 0)
        daemon.__enter__()

    def run_demo(self, *arguments, disk):
        with Daemon(*SEGMENTS, disk=disk) as daemon:
            command, thread = self.during(daemon, lambda: self.restart(daemon))
            result = self.good_json("demo", *SMALL, *arguments, "--restart", command,
                                    socket=daemon.socket)
            thread.join(BEGIN_S)
            status = self.good_json("status", socket=daemon.socket)
        totals, restart = result["totals"], result["restart"]
        self.assertTrue(result["good"])
        self.assertEqual(totals["logits_identical"], totals["requests"])
        self.assertEqual(totals["kv_identical"], totals["requests"])
        self.assertEqual((totals["failed"], totals["without_cache"]), (0, 0))
        before, after = restart["before"], restart["after"]
        self.assertEqual(before["requests"], (totals["requests"] + 1) // 2)
        for name, total in (("requests", "requests"), ("hit_tokens", "hit_tokens"),
                            ("prompt_tokens", "prompt_tokens"), ("with_hits", "with_hits")):
            self.assertEqual(before[name] + after[name], totals[total], name)
        self.assertLessEqual(restart["outlived_tokens"], after["hit_tokens"])
        return result, status

    def test_blocks_outlive_the_daemon(self):
        result, status = self.run_demo(disk="256MiB")
        restart = result["restart"]
        self.assertGreater(restart["blocks_back"], 100)
        self.assertEqual(restart["disk"], "up")
        self.assertGreater(restart["outlived_tokens"], 1000)
        self.assertGreater(restart["disk_read_bytes"], 0)
        self.assertEqual(status["disk"]["counters"]["restored_parts"], restart["restored_parts"])
        # the very first request behind it is served from what came back
        self.assertGreater(result["requests"][restart["before"]["requests"]]["hit_tokens"], 0)

    def test_without_a_disk_nothing_does(self):
        restart = self.run_demo(disk=None)[0]["restart"]
        self.assertEqual((restart["blocks_back"], restart["outlived_tokens"]), (0, 0))
        self.assertEqual((restart["disk"], restart["disk_read_bytes"]), ("off", 0))
        self.assertGreater(restart["before"]["hit_tokens"], 0)

    def test_for_people(self):
        with Daemon(*SEGMENTS, disk="256MiB") as daemon:
            command, thread = self.during(daemon, lambda: self.restart(daemon))
            text = self.good("demo", *SMALL, "--restart", command, socket=daemon.socket)
            thread.join(BEGIN_S)
        self.assertRegex(text, r"\n-- kveikd was restarted: \d+ blocks came back from disk --\n")
        self.assertRegex(text, r"outlived the restart +\d+ of the \d+ tokens found after it")
        self.assertIn("85 of 85", text)
        with Daemon() as daemon:
            self.assertNotIn("restart", self.good("demo", *SMALL, "--requests", "2",
                                                  socket=daemon.socket))

    def test_commands_that_do_not_restart_it(self):
        few = (*SMALL, "--requests", "4", "--restart-time", "2s")
        with Daemon() as daemon:
            self.refused(FAILED, ["--restart", "`exit 7'", "exit code 7"], "demo", *few,
                         "--restart", "exit 7", socket=daemon.socket)
            self.refused(FAILED, ["--restart", "still the same one"], "demo", *few,
                         "--restart", "true", socket=daemon.socket)
            self.refused(FAILED, ["`sleep 60'", "did not end within 2 s"], "demo", *few,
                         "--restart", "sleep 60", socket=daemon.socket)
            command, thread = self.during(daemon, daemon.stop)
            self.refused(UNREACHABLE, ["--restart", "does not answer again"], "demo", *few,
                         "--restart", command, socket=daemon.socket)
            thread.join(BEGIN_S)


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
