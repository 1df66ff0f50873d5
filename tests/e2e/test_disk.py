#!/usr/bin/env python3
"""The disk tier as its operator meets it: status, --check-store, `kveik bench disk`.

Covers: daemon/server/check_store.c, client/cli/bench_disk.c, client/cli/bench_disk_transfer.c,
client/cli/bench_disk_growth.c, client/cli/bench_disk_churn.c, client/cli/bench_disk_blobs.c
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import kveik_test
from kveik_test import BIN, Daemon

SHAPES = ("128k", "2m", "16m")


def check_store(path, *arguments):
    return subprocess.run([BIN / "kveikd", "--check-store", "--disk-path", path, *arguments],
                          capture_output=True, text=True, timeout=120,
                          env=kveik_test.environment())


class Disk(kveik_test.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kveik-disk-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def daemon(self, *arguments):
        return Daemon("--disk-path", self.folder / "store", "--disk-segment-bytes", "4MiB",
                      *arguments, disk="256MiB")

    def serve(self):
        """An engine pushes to a daemon, so that there is something on disk."""
        with self.daemon() as daemon:
            subprocess.run([BIN / "kveik_hello"], capture_output=True, timeout=60, check=True,
                           env={**os.environ, "KVEIK_SOCKET": str(daemon.socket)})

    def test_status(self):
        with self.daemon() as daemon:
            disk = self.good_json("status", socket=daemon.socket)["disk"]
            self.assertEqual(disk["state"], "up")
            self.assertIn(disk["io"], ("io_uring", "threads"))
            self.assertEqual(disk["path"], str(self.folder / "store"))
            self.assertIn("disk tier", self.good("status", socket=daemon.socket))
        with Daemon() as daemon:
            self.assertEqual(self.good_json("status", socket=daemon.socket)["disk"]["state"], "off")

    def test_blocks_are_there_after_a_restart(self):
        self.serve()
        with self.daemon() as daemon:
            status = self.good_json("status", socket=daemon.socket)
            self.assertGreater(status["disk"]["parts_on_disk_only"], 0)
            self.assertEqual(status["counters"]["restored"], status["disk"]["parts"])

    def test_a_store_is_checked_and_repaired(self):
        self.serve()
        good = check_store(self.folder / "store")
        self.assertEqual(good.returncode, 0, good.stderr)
        self.assertIn("damaged blocks dropped: 0", good.stdout)
        self.assertIn("100 %", good.stderr)
        segment = max((self.folder / "store" / "segments").iterdir(),
                      key=lambda path: path.stat().st_size)
        content = bytearray(segment.read_bytes())
        for at in range(len(content) // 2, len(content), 512):  # some of it is payload
            content[at] ^= 1
        segment.write_bytes(content)
        bad = check_store(self.folder / "store")
        self.assertEqual(bad.returncode, 1, bad.stderr)
        self.assertNotIn("damaged blocks dropped: 0", bad.stdout)
        again = check_store(self.folder / "store")
        self.assertEqual(again.returncode, 0, again.stdout)

    def test_check_store_refuses(self):
        missing = check_store(self.folder / "nothing")
        self.assertEqual(missing.returncode, 1)
        self.assertIn("there is no store", missing.stderr)
        with self.daemon():
            busy = check_store(self.folder / "store")
            self.assertEqual(busy.returncode, 1)
            self.assertRegex(busy.stderr, r"\bpid\b|process")

    @unittest.skipUnless(shutil.which("fio"), "no fio")
    @unittest.skipIf(int(os.environ.get("KVEIK_TEST_SCALE", "100")) < 50, "a slow build")
    def test_bench(self):
        result = self.good_json("bench", "disk", "--quick", "--directory", self.folder)
        for shape in SHAPES:
            for name in ("fio_write", "fio_read", "write", "read", "write_ratio", "read_ratio",
                         "write_cpu", "read_cpu"):
                self.assertGreater(result["metrics"][f"{name}_{shape}"]["median"], 0, name)
        for name in ("write_amplification", "churn_hit_ratio", "start_10000",
                     "catalogue_bytes_a_block_10000"):
            self.assertGreater(result["metrics"][name]["median"], 0, name)
        self.assertEqual(list(self.folder.iterdir()), [], "something stays behind")


if __name__ == "__main__":
    unittest.main(verbosity=2)
