#!/usr/bin/env python3
"""llama.cpp engines share their KV through kveikd; logits stay what they were, bit for bit.

Each class is a test of its own in ctest. Covers: client/examples/llamacpp/engine.c,
client/examples/llamacpp/main.c, client/examples/llamacpp/prompts.c,
client/examples/llamacpp/report.c, client/examples/llamacpp/serve.c,
client/examples/llamacpp/share.c, client/examples/llamacpp/share_setup.c
"""
import array
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import llama
from llama import Llama, make_model, prompt, serve
from kveik_test import Daemon, kveik

DAMAGED = pathlib.Path(os.environ.get("KVEIK_DAMAGED", "build/debug/tests/kveik-llama-damaged"))
LAYERS, HEADS, HEAD_DIM, F16_BYTES = 4, 2, 32, 2  # of make_model.py's defaults
SWA_LAYERS, WINDOW = 3, 96
ROW_BYTES = 2 * HEADS * HEAD_DIM * F16_BYTES  # K and V of a token and layer
BLOCK = 64

MODELS = {}
FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="kveik-llama-"))


def setUpModule():  # pylint: disable=invalid-name
    MODELS["llama"] = make_model(FOLDER / "llama.gguf")
    MODELS["other"] = make_model(FOLDER / "other.gguf", "--seed", 2)
    MODELS["single"] = make_model(FOLDER / "single.gguf", "--layers", 1)
    MODELS["window"] = make_model(FOLDER / "window.gguf", "--arch", "cohere2", "--window", WINDOW)


def tearDownModule():  # pylint: disable=invalid-name
    shutil.rmtree(FOLDER)


def digests(answers):
    return [answer["logits"] for answer in answers]


class LlamaTest(unittest.TestCase):
    """With what is asked of most engines."""

    def all_identical(self, answers):
        for answer in answers:
            self.assertTrue(answer["identical"], answer)

    def share(self, prompts, first, second, model="llama", same=True):
        """One engine pushes, another one pulls and compares. Returns the second's answers."""
        with Daemon() as daemon:
            serve(MODELS[model], daemon.socket, prompts, *first)
            answers = serve(MODELS[model], daemon.socket, prompts, "--check", *second)
        if same:
            self.all_identical(answers)
        return answers

    def until_found(self, engine, tokens, count):
        """It needs a moment until the library has seen the daemon."""
        deadline = time.monotonic() + 10
        answer = engine.ask(tokens)
        while answer["found"] < count and time.monotonic() < deadline:
            time.sleep(0.05)
            answer = engine.ask(tokens)
        self.assertEqual(answer["found"], count, answer)
        return answer


class Sharing(LlamaTest):
    def test_another_process_finds_it(self):
        prompts = [prompt(1, 1000), prompt(1, 300), prompt(2, 129), prompt(3, 64), prompt(4, 17)]
        alone = serve(MODELS["llama"], None, prompts, "--generate", "8")
        with Daemon() as daemon:
            first = serve(MODELS["llama"], daemon.socket, prompts, "--generate", "8")
            # an engine that was started anew has nothing of its own: all of this is the daemon's
            second = serve(MODELS["llama"], daemon.socket, prompts, "--generate", "8")
        self.assertEqual([answer["found"] for answer in first], [0, 256, 0, 0, 0])
        # the last token's block is always computed
        self.assertEqual([answer["found"] for answer in second], [960, 256, 128, 0, 0])
        self.assertEqual(digests(first), digests(alone))
        self.assertEqual(digests(second), digests(alone))
        self.assertEqual([answer["generated"] for answer in second],
                         [answer["generated"] for answer in alone])

    def test_two_at_the_same_time(self):
        common = prompt(5, 512)
        with Daemon() as daemon, Llama(MODELS["llama"], daemon.socket, "--check") as one, \
                Llama(MODELS["llama"], daemon.socket, "--check") as other:
            for turn in range(6):
                engine = (one, other)[turn % 2]
                answer = engine.ask(common + prompt(turn, 64 * turn + 5), generate=3)
                self.assertTrue(answer["identical"])
                self.assertEqual(answer["found"] >= 448, turn > 0, answer)

    def test_nothing_is_pushed_twice(self):
        prompts = [prompt(6, 400)]
        with Daemon() as daemon:
            with Llama(MODELS["llama"], daemon.socket) as engine:
                engine.ask(prompts[0])
                self.assertEqual(engine.end()["pushed"], 6)
            with Llama(MODELS["llama"], daemon.socket) as engine:
                self.assertEqual(engine.ask(prompts[0])["pushed"], 0)
                self.assertEqual(engine.end()["pulled"], 6)


class Disk(LlamaTest):
    """A daemon with a disk tier gives back after a restart what was there before."""

    def durable(self, daemon, limit_s=30, idle_s=3):
        """Waits until all that the daemon holds would outlive a kill: written, and the epoch that
        was open then is committed, or still open after several times disk-sync-time, so empty."""
        epoch, until = None, time.monotonic() + limit_s
        while time.monotonic() < until:
            told = self.status(daemon)
            disk, parts = told["disk"], told["index"]["parts"]
            if disk["queued"] + disk["stores_in_flight"] or disk["parts"] < parts or parts == 0:
                epoch = None
            elif epoch is None:
                epoch, until = disk["epoch"], time.monotonic() + idle_s
            elif disk["committed_epoch"] >= epoch:
                break
            time.sleep(0.05)
        self.assertIsNotNone(epoch, "not all blocks are on disk")

    def status(self, daemon):
        return json.loads(kveik("status", "--json", socket=daemon.socket).stdout)

    def restart(self, daemon, kill):
        """With nothing in memory, and what is on its disk."""
        if kill:
            daemon.process.kill()
            daemon.process.wait()
        else:
            self.assertEqual(daemon.stop(), 0)
        daemon.socket.unlink(missing_ok=True)
        daemon.__enter__()

    def test_restarted_in_the_middle(self):
        """In order, and by kill -9, between an engine's prompts; and for an engine that is new."""
        prompts = [prompt(15, 1000), prompt(16, 300), prompt(17, 129)]
        found = [960, 256, 128]
        for model, first in (("llama", "stop"), ("window", "kill")):
            expected = digests(serve(MODELS[model], None, prompts, "--generate", "4"))
            with self.subTest(model=model, first=first), Daemon(disk="2GiB") as daemon:
                with Llama(MODELS[model], daemon.socket, "--generate", "4") as engine:
                    for tokens in prompts:
                        engine.ask(tokens)
                    self.durable(daemon)
                    self.restart(daemon, kill=first == "kill")
                    answers = [self.until_found(engine, *one) for one in zip(prompts, found)]
                    self.assertEqual(digests(answers), expected)
                    counters = self.status(daemon)["counters"]
                    self.assertGreater(counters["loads"], 0)
                    self.assertEqual(counters["push_blocks"], 0)
                self.restart(daemon, kill=first != "kill")
                answers = serve(MODELS[model], daemon.socket, prompts, "--check", "--generate", "4")
                self.assertEqual([answer["found"] for answer in answers], found)
                self.assertEqual(digests(answers), expected)
                self.all_identical(answers)


class Kinds(LlamaTest):
    def test_types_of_kv(self):
        prompts = [prompt(10, 500), prompt(11, 130)]
        for kind in ("f32", "f16", "bf16", "q8_0"):
            for flash in ((), ("--flash-attention",)):
                if kind == "q8_0" and not flash:
                    continue
                with self.subTest(kind=kind, flash=flash):
                    options = ("--kv-type", kind, *flash, "--generate", "3")
                    answers = self.share(prompts, options, options)
                    self.assertEqual([answer["found"] for answer in answers], [448, 128])

    def test_packed_v_needs_flash_attention(self):
        with Llama(MODELS["llama"], None, "--kv-type", "q8_0") as engine:
            engine.end()
        self.assertEqual(engine.code, 1)


class Blocks(LlamaTest):
    def test_other_block_sizes_share(self):
        """Batches are what logits depend on; the blocks only move them."""
        prompts = [prompt(20, 500), prompt(21, 300)]
        batch = ("--batch-tokens", "64")
        for size, found in ((16, [448, 256]), (32, [448, 256]), (128, [384, 256])):
            with self.subTest(size=size):
                there = self.share(prompts, batch, (*batch, "--block-tokens", size))
                back = self.share(prompts, (*batch, "--block-tokens", size), batch)
                self.assertEqual([answer["found"] for answer in there], found)
                # a push ends at a whole block of the pusher's
                self.assertEqual([answer["found"] for answer in back], found)

    def test_packed_blocks_are_shared_whole_only(self):
        options = ("--kv-type", "q8_0", "--flash-attention", "--batch-tokens", "64")
        answers = self.share([prompt(22, 500)], options, (*options, "--block-tokens", "32"))
        self.assertEqual(answers[0]["found"], 0)

    def test_generated_blocks(self):
        """Tokens that were generated were computed one at a time: equal to who does the same."""
        question, more = prompt(23, 100), prompt(24, 50)
        with Daemon() as daemon:
            with Llama(MODELS["llama"], daemon.socket) as engine:
                answer = engine.ask(question, generate=100)
                self.assertEqual(answer["pushed"], 3)
            with Llama(MODELS["llama"], daemon.socket, "--check") as engine:
                tokens = question + answer["generated"] + more
                second = engine.ask(tokens, generate=5, singly=[100, 199])
                self.assertEqual(second["found"], 192)
                self.assertTrue(second["identical"])
                # computed in batches, the same tokens give what differs in the last bits only
                third = engine.ask(tokens, generate=5)
                self.assertEqual(third["found"], 192)
                self.assertLess(third["difference"], 0.05)


class Transposed(LlamaTest):
    """With flash attention V is kept as it is, without it is kept transposed: one space, other
    strides."""

    def test_every_byte_is_right(self):
        """The KV of the only layer does not depend on how attention is computed: what was
        transposed on its way must be the same to the bit."""
        prompts = [prompt(30, 500), prompt(31, 200)]
        for kind in ("f16", "f32", "bf16"):
            options = ("--kv-type", kind, "--generate", "3")
            flash = (*options, "--flash-attention")
            for first, second in ((options, flash), (flash, options)):
                with self.subTest(kind=kind, first=first):
                    answers = self.share(prompts, first, second, model="single")
                    self.assertEqual([answer["found"] for answer in answers], [448, 192])

    def test_more_layers_differ_by_rounding(self):
        """The two kernels round differently; what is shared is as far off as they are, no more."""
        tokens = [prompt(32, 500)]
        plain, flash = self.logits(tokens), self.logits(tokens, "--flash-attention")
        kernels = max(abs(a - b) for a, b in zip(plain, flash))
        self.assertGreater(kernels, 0)
        answers = self.share(tokens, (), ("--flash-attention",), same=False)
        self.assertEqual(answers[0]["found"], 448)
        self.assertFalse(answers[0]["identical"])
        self.assertLess(answers[0]["difference"], 4 * kernels)

    def logits(self, prompts, *arguments):
        path = FOLDER / "logits"
        serve(MODELS["llama"], None, prompts, "--logits", path, *arguments)
        values = array.array("f", path.read_bytes())
        self.assertEqual(len(values), llama.VOCABULARY)
        return values


class Apart(LlamaTest):
    """What means something else is never found."""

    def test_nothing_is_found(self):
        tokens = prompt(40, 500)
        others = {"another model of the same shape": ("other",),
                  "another rotary base": ("llama", "--rope-freq-base", "5000"),
                  "another type": ("llama", "--kv-type", "bf16"),
                  "isolation": ("llama", "--isolate", "apart")}
        with Daemon() as daemon:
            serve(MODELS["llama"], daemon.socket, [tokens])
            for name, (model, *options) in others.items():
                with self.subTest(name):
                    answer, = serve(MODELS[model], daemon.socket, [tokens], "--check", *options)
                    self.assertEqual(answer["found"], 0)
                    self.assertTrue(answer["identical"])
            self.assertEqual(serve(MODELS["llama"], daemon.socket, [tokens])[0]["found"], 448)

    def test_a_model_is_its_bytes(self):
        again = make_model(FOLDER / "again.gguf")
        self.assertEqual(again.read_bytes(), MODELS["llama"].read_bytes())
        self.assertNotEqual(again.read_bytes(), MODELS["other"].read_bytes())
        with Daemon() as daemon:
            serve(MODELS["llama"], daemon.socket, [prompt(41, 200)])
            self.assertEqual(serve(again, daemon.socket, [prompt(41, 200)])[0]["found"], 192)


class Window(LlamaTest):
    """Three of four layers have a sliding window: a group of their own, by the window's rule."""

    def test_shares(self):
        prompts = [prompt(50, 1000), prompt(51, 300), prompt(52, 100)]
        for flash in ((), ("--flash-attention",)):
            with self.subTest(flash=flash):
                options = ("--generate", "70", *flash)
                answers = self.share(prompts, options, options, model="window")
                self.assertEqual([answer["found"] for answer in answers], [960, 256, 64])
                # of the layers with a window, the window's tokens only
                rows = [found + SWA_LAYERS * min(found, WINDOW) for found in (960, 256, 64)]
                self.assertEqual([answer["bytes"] for answer in answers],
                                 [ROW_BYTES * count for count in rows])

    def test_other_block_sizes(self):
        batch = ("--batch-tokens", "64")
        answers = self.share([prompt(53, 700)], (*batch, "--block-tokens", "16"), batch,
                             model="window")
        self.assertEqual(answers[0]["found"], 640)

    def test_a_block_must_fit_into_the_window(self):
        with Llama(MODELS["window"], None, "--block-tokens", "128") as engine:
            engine.end()
        self.assertEqual(engine.code, 1)


class Damage(LlamaTest):
    """The comparison of logits sees one wrong bit: it does not say "identical" by itself."""

    def check(self, where, pusher, puller):
        tokens = [prompt(60, 300)]
        with Daemon() as daemon:
            serve(MODELS["llama"], daemon.socket, tokens, program=pusher, KVEIK_TEST_DAMAGE=where)
            with Llama(MODELS["llama"], daemon.socket, "--check", program=puller,
                       KVEIK_TEST_DAMAGE=where) as engine:
                answer = engine.ask(tokens[0])
        self.assertEqual(answer["found"], 256)
        return answer, engine.code

    def test_seen(self):
        for where, pusher, puller in (("pull", llama.PROGRAM, DAMAGED),
                                      ("push", DAMAGED, llama.PROGRAM)):
            with self.subTest(where):
                answer, code = self.check(where, pusher, puller)
                self.assertFalse(answer["identical"])
                self.assertEqual(code, 1)

    def test_without_damage(self):
        answer, code = self.check("", DAMAGED, DAMAGED)
        self.assertTrue(answer["identical"])
        self.assertEqual(code, 0)


class Faults(LlamaTest):
    """Whatever the daemon does, every prompt is served, with the right logits."""

    def prompts(self):
        common = prompt(70, 256)
        return [common + prompt(71 + i, 30 + 40 * (i % 5)) for i in range(12)]

    def test_no_daemon_then_one(self):
        tokens = prompt(80, 300)
        expected = digests(serve(MODELS["llama"], None, [tokens]))
        with Daemon() as daemon:
            daemon.stop()
            with Llama(MODELS["llama"], daemon.socket) as engine:
                answer = engine.ask(tokens)
                self.assertEqual((answer["found"], answer["cache"]), (0, "no daemon"))
                self.assertEqual([answer["logits"]], expected)
                with again(daemon):
                    self.until_found(engine, tokens, 256)
                    # what was registered late means the same to an engine that came in time
                    other, = serve(MODELS["llama"], daemon.socket, [tokens])
                    self.assertEqual((other["found"], other["logits"]), (256, expected[0]))

    def test_killed_and_restarted_under_load(self):
        prompts = self.prompts()
        expected = digests(serve(MODELS["llama"], None, prompts, "--generate", "4"))
        rng = random.Random(90)
        kills, over = 0, threading.Event()
        with Daemon() as daemon, Llama(MODELS["llama"], daemon.socket, "--generate", "4") as engine:
            def kill_often():
                nonlocal kills
                while not over.wait(rng.uniform(0.1, 0.5)):
                    daemon.process.kill()
                    daemon.process.wait()
                    over.wait(rng.uniform(0, 0.2))
                    daemon.socket.unlink(missing_ok=True)
                    daemon.__enter__()
                    kills += 1

            killer = threading.Thread(target=kill_often)
            killer.start()
            try:
                found = []
                until = time.monotonic() + 60
                while (kills < 6 or not any(found)) and time.monotonic() < until:
                    answers = [engine.ask(tokens) for tokens in prompts]
                    self.assertEqual(digests(answers), expected)
                    found += [answer["found"] for answer in answers]
            finally:
                over.set()
                killer.join()
            self.assertGreaterEqual(kills, 6)
            self.assertGreater(max(found), 0)
            self.until_found(engine, prompts[0], 256)
            self.assertGreater(engine.end()["reconnects"], 0)

    def test_stopped(self):
        """It does not answer, and is not gone: one deadline, then computing goes on without it."""
        tokens = prompt(81, 400)
        deadline_ms = 300
        with Daemon() as daemon, \
                Llama(MODELS["llama"], daemon.socket, "--deadline-ms", deadline_ms) as engine:
            expected = engine.ask(tokens)
            self.assertEqual(self.until_found(engine, tokens, 384)["logits"], expected["logits"])
            daemon.process.send_signal(signal.SIGSTOP)
            try:
                began = time.monotonic()
                answers = [engine.ask(tokens) for _ in range(8)]
                took_ms = 1000 * (time.monotonic() - began)
            finally:
                daemon.process.send_signal(signal.SIGCONT)
            waits = [answer["lookup_ms"] + answer["pull_ms"] for answer in answers]
            self.assertLess(max(waits), 2 * deadline_ms)
            # one deadline now, and then one in nine again
            self.assertLess(sum(waits), 2 * deadline_ms + took_ms / 4)
            self.assertEqual({answer["logits"] for answer in answers}, {expected["logits"]})
            self.assertEqual({answer["found"] for answer in answers}, {0})
            answer = self.until_found(engine, tokens, 384)
            self.assertEqual(answer["logits"], expected["logits"])
            self.assertGreater(engine.end()["late"], 0)

    def test_stopped_at_any_moment(self):
        """Also in the middle of pulls: pages that a copy may still touch are not used again."""
        prompts = self.prompts()
        expected = digests(serve(MODELS["llama"], None, prompts, "--generate", "2"))
        rng = random.Random(91)
        over = threading.Event()
        with Daemon() as daemon, Llama(MODELS["llama"], daemon.socket, "--generate", "2",
                                       "--deadline-ms", "5") as engine:
            def stop_often():
                while not over.wait(rng.uniform(0.001, 0.05)):
                    daemon.process.send_signal(signal.SIGSTOP)
                    # longer than the library waits for an answer, now and then
                    over.wait(rng.choice((0.01, 0.03, 0.1, 1.5)))
                    daemon.process.send_signal(signal.SIGCONT)

            stopper = threading.Thread(target=stop_often)
            stopper.start()
            try:
                until = time.monotonic() + 8
                while time.monotonic() < until:
                    self.assertEqual(digests([engine.ask(tokens) for tokens in prompts]), expected)
            finally:
                over.set()
                stopper.join()
            self.until_found(engine, prompts[0], 256)
            self.assertTrue(engine.end()["flushed"])


@contextlib.contextmanager
def again(daemon):
    """The same daemon, on the same socket."""
    daemon.__enter__()
    yield
    daemon.stop()


class Words(LlamaTest):
    """What is wrong is said, with what would be right."""

    def refused(self, words, *arguments, given=""):
        done = subprocess.run([llama.PROGRAM, *map(str, arguments)], input=given, text=True,
                              capture_output=True, timeout=60, check=False)
        self.assertNotEqual(done.returncode, 0)
        for word in words:
            self.assertIn(word, done.stderr)
        return done

    def test_options(self):
        model = ("--model", MODELS["llama"])
        self.refused(["--model is needed"])
        self.refused(["multiple of 16"], *model, "--block-tokens", "60")
        self.refused(["--batch-tokens 48", "divide"], *model, "--batch-tokens", "48")
        self.refused(["--threads 0", "from 1"], *model, "--threads", "0")
        self.refused(["does not load"], "--model", __file__)
        self.refused(["f32, f16, bf16 or q8_0"], *model, "--kv-type", "q3")
        self.refused(["at most 96"], "--model", MODELS["window"], "--block-tokens", "128")

    def test_prompts(self):
        lines = {"1 2 x": "no number", "512": "not below 512", "[1, 2": "no number",
                 '{"token": [1]}': "neither", '{"tokens": [1], "generate": 5000}': "a number that",
                 '{"tokens": [1, 2], "generate": 4095}': "do not fit", "[]": "no tokens",
                 "[1] 2": "more after"}
        given = "\n".join([*lines, "1 2, 3", ""])
        done = self.refused(lines.values(), "--model", MODELS["llama"], "--no-cache", given=given)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout.count("\n"), 1)  # the good one was served all the same


if __name__ == "__main__":
    unittest.main()
