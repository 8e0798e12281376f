"""KV events of a real daemon, read as a KV-aware router reads them: a SUB socket, and replay for what it missed."""
import ast
import contextlib
import pathlib
import re
import struct
import subprocess
import tempfile
import unittest

import support

try:
    import msgpack
    import zmq
except ImportError:
    zmq = None

TOKENS = support.TRACES / "text_tokens.npy"
END_OF_REPLAY = 2**64 - 1
PATIENCE_MS = 20_000


def uint32_array(path):
    """The values of a one-dimensional .npy of uint32."""
    raw = path.read_bytes()
    begin = 10 + struct.unpack_from("<H", raw, 8)[0]
    shape = ast.literal_eval(raw[10:begin].decode())["shape"]
    return list(struct.unpack_from(f"<{shape[0]}I", raw, begin))


class Router:
    """Reads one stream without a gap: what it did not hear it asks for."""

    def __init__(self, context, folder, name, topic=b""):
        self.topic = topic
        self.heard = {}  # sequence -> batch
        self.live = context.socket(zmq.SUB)
        self.live.connect(f"ipc://{folder}/{name}.sock")
        self.live.setsockopt(zmq.SUBSCRIBE, topic)
        self.replay = context.socket(zmq.DEALER)
        self.replay.connect(f"ipc://{folder}/{name}-replay.sock")

    def close(self):
        self.live.close(0)
        self.replay.close(0)

    def keep(self, sequence, payload):
        batch = msgpack.unpackb(payload)
        if sequence in self.heard:
            assert self.heard[sequence] == batch, "the same number for another batch"
        self.heard[sequence] = batch

    def hear(self):
        """One message as it is published."""
        assert self.live.poll(PATIENCE_MS), "nothing was published"
        topic, sequence, payload = self.live.recv_multipart()
        assert topic == self.topic and len(sequence) == 8
        self.keep(int.from_bytes(sequence, "big"), payload)

    def ask(self, first=0):
        """Everything from `first` on that is still there; how many messages."""
        self.replay.send_multipart([b"", first.to_bytes(8, "big")])
        answered = 0
        while True:
            assert self.replay.poll(PATIENCE_MS), "no replay"
            nothing, sequence, payload = self.replay.recv_multipart()
            assert nothing == b""
            if int.from_bytes(sequence, "big") == END_OF_REPLAY:
                assert payload == b""
                return answered
            self.keep(int.from_bytes(sequence, "big"), payload)
            answered += 1

    def events(self):
        """All events until now, in order, without a gap."""
        while self.live.poll(0):
            self.hear()
        assert sorted(self.heard) == list(range(len(self.heard))), f"a gap: {sorted(self.heard)}"
        return [event for n in sorted(self.heard) for event in self.heard[n][1]]

    def wait_for(self, what, condition):
        """The events, once they are enough."""
        self.ask()
        while not condition(self.events()):
            assert self.live.poll(PATIENCE_MS), f"{what} did not come"
            self.hear()
        return self.events()


def present(events):
    """The blocks that are there, by hash, with their medium. Fails for what cannot have happened."""
    blocks = {}
    for event in events:
        if event["type"] == "AllBlocksCleared":
            blocks.clear()
        elif event["type"] == "BlockStored":
            parent = event["parent_block_hash"]
            for block in event["block_hashes"]:
                assert parent is None or parent in blocks, "stored before its parent"
                assert block not in blocks, "stored twice"
                blocks[block] = event["medium"]
                parent = block
        else:
            for block in event["block_hashes"]:
                assert blocks.pop(block) == event["medium"], "removed from where it was not"
    return blocks


def of_type(events, name):
    return [e for e in events if e["type"] == name]


@unittest.skipIf(zmq is None, "no modules zmq and msgpack (Debian: python3-zmq, python3-msgpack)")
class EventsTest(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.context = zmq.Context()
        self.stack.callback(self.context.term)

    def stream(self, name, more=""):
        return (f"events {{ endpoint: 'ipc://{self.folder}/{name}.sock' "
                f"replay_endpoint: 'ipc://{self.folder}/{name}-replay.sock' {more} }}\n")

    def daemon(self, config, *flags):
        path = pathlib.Path(self.folder) / "kvstowd.textproto"
        path.write_text(config)
        return self.stack.enter_context(support.Daemon(f"--config={path}", *flags))

    def router(self, name, topic=b""):
        router = Router(self.context, self.folder, name, topic)
        self.stack.callback(router.close)
        return router

    def keys(self, daemon):
        listed = daemon.tool("lookup", f"--tokens={TOKENS}", "--keys",
                             f"--space={daemon.folder.name}/space.textproto").stdout
        return [bytes.fromhex(key) for key in re.findall(r"^\d+ ([0-9a-f]{64}) stored$", listed, re.M)]

    def drop_all(self, daemon, *flags):
        return daemon.tool("drop", "--all", f"--space={daemon.folder.name}/space.textproto", *flags)

    def test_what_a_put_stores_and_a_drop_removes(self):
        daemon = self.daemon(self.stream("e", "topic: 'kv@pod@trace' dp_rank: 3"))
        router = self.router("e", b"kv@pod@trace")
        daemon.put_trace("--send_token_ids")
        keys = self.keys(daemon)
        self.assertGreater(len(keys), 2)
        events = router.wait_for("every block", lambda e: len(present(e)) == len(keys))
        self.assertEqual(events[0], {"type": "AllBlocksCleared"}, "a new daemon has nothing")
        stored = of_type(events, "BlockStored")
        self.assertEqual([h for e in stored for h in e["block_hashes"]], keys)
        self.assertIsNone(stored[0]["parent_block_hash"])
        tokens = uint32_array(TOKENS)
        size = stored[0]["block_size"]
        self.assertEqual([t for e in stored for t in e["token_ids"]], tokens[:len(keys) * size])
        for event in stored:
            self.assertEqual(list(event), ["type", "block_hashes", "parent_block_hash", "token_ids", "block_size",
                                           "lora_id", "medium", "lora_name"])
            self.assertEqual(event["medium"], "CPU")
        for ts, _, dp_rank in router.heard.values():
            self.assertIsInstance(ts, float)
            self.assertGreater(ts, 1.6e9)
            self.assertEqual(dp_rank, 3)

        self.assertEqual(self.drop_all(daemon).returncode, 0)
        router.wait_for("the removal of every block", lambda e: not present(e))
        daemon.put_trace()
        events = router.wait_for("every block again", lambda e: len(present(e)) == len(keys))
        told = [e["token_ids"] for e in of_type(events, "BlockStored") if e not in stored]
        self.assertTrue(told)
        self.assertEqual([t for ids in told for t in ids], [], "token ids without being asked for")

    def test_a_daemon_that_ends_says_so(self):
        daemon = self.daemon(self.stream("e"))
        router = self.router("e")
        # There is nobody to ask any more in the end, so it has to hear by itself.
        while not router.live.poll(100):
            self.drop_all(daemon)
            daemon.put_trace()
        router.wait_for("blocks", present)
        daemon.process.terminate()
        while present(router.events()):
            router.hear()
        self.assertEqual(router.events()[-1], {"type": "AllBlocksCleared"})

    def test_positional_events_with_integers(self):
        daemon = self.daemon(self.stream("e", "form: 'array' block_hash: 'int' medium: 'REMOTE'"))
        router = self.router("e")
        daemon.put_trace("--send_token_ids")
        keys = self.keys(daemon)
        events = router.wait_for("every block",
                                 lambda e: sum(len(s[1]) for s in e if s[0] == "BlockStored") == len(keys))
        self.assertEqual(events[0], ["AllBlocksCleared"])
        stored = [e for e in events if e[0] == "BlockStored"]
        integers = [int.from_bytes(key[-8:], "big") for key in keys]
        self.assertEqual([h for e in stored for h in e[1]], integers)
        for event in stored:
            name, hashes, parent, token_ids, size, lora_id, medium, lora_name = event
            first = integers.index(hashes[0])
            self.assertEqual(parent, integers[first - 1] if first > 0 else None)
            self.assertEqual(len(token_ids), len(hashes) * size)
            self.assertEqual((lora_id, medium, lora_name), (None, "REMOTE", None))
        self.drop_all(daemon)
        removed = router.wait_for("removals", lambda e: e[-1][0] == "BlockRemoved")[-1]
        self.assertEqual(removed[2:], ["REMOTE"])

    def test_eviction_under_load_and_a_reader_that_does_not_read(self):
        daemon = self.daemon(self.stream("e", "replay_buffer: '64MiB'"), "--host_tier=12MiB")
        stalled = self.context.socket(zmq.SUB)
        stalled.setsockopt(zmq.RCVHWM, 1)
        stalled.connect(f"ipc://{self.folder}/e.sock")
        stalled.setsockopt(zmq.SUBSCRIBE, b"")
        self.stack.callback(stalled.close, 0)
        router = self.router("e")
        bench = daemon.tool("bench", "--threads=2", "--blocks=2", "--layers=2", "--ops=200", "--seconds=60",
                            "--mix=put", "--keep")
        self.assertEqual(bench.returncode, 0, bench.stdout + bench.stderr)
        def all_is_told():
            """Once the daemon has done what it does by itself, events and metrics tell the same."""
            scrape = daemon.scrape()

            def value(name):
                return sum(int(float(v)) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", scrape, re.M))

            self.assertEqual(value("kvstow_events_lost_total"), 0)
            router.ask()
            events = router.events()
            told = sum(len(e.get("block_hashes", ())) for e in events)
            happened = value("kvstow_stored_blocks_total") + value("kvstow_removed_blocks_total")
            evicted = sum(len(e["block_hashes"]) for e in of_type(events, "BlockRemoved"))
            return (evicted > 0 and told == happened == value("kvstow_events_published_total")
                    and len(present(events)) == value("kvstow_tenant_blocks"))

        support.wait_for("all that happened to be told", all_is_told)

    def test_a_tenant_hears_of_its_own_blocks_alone(self):
        for tenant in "ab":
            pathlib.Path(f"{self.folder}/{tenant}").write_text(f"token-of-{tenant}-0123456789abcdef\n")
        config = "".join(f"tenant {{ name: '{t}' token_file: '{self.folder}/{t}' }}\n" + self.stream(t, f"tenant: '{t}'")
                         for t in "ab")
        daemon = self.daemon(config)
        a, b = self.router("a"), self.router("b")
        self.assertEqual(daemon.put_trace("--send_token_ids", f"--token_file={self.folder}/a").returncode, 0)
        stored = of_type(a.wait_for("a's blocks", present), "BlockStored")
        self.assertEqual(daemon.put_trace(f"--token_file={self.folder}/b").returncode, 0)
        events = b.wait_for("b's blocks", lambda e: len(present(e)) == len(present(a.events())))
        self.assertEqual({len(e["token_ids"]) for e in of_type(events, "BlockStored")}, {0},
                         "another tenant's token ids")
        self.assertEqual(self.drop_all(daemon, f"--token_file={self.folder}/b").returncode, 0)
        b.wait_for("the end of b's blocks", lambda e: not present(e))
        a.ask()
        self.assertEqual(of_type(a.events(), "BlockStored"), stored)
        self.assertTrue(present(a.events()), "another tenant's drop")

    def test_a_stream_of_one_model(self):
        daemon = self.daemon(self.stream("trace", "model: 'trace'") + self.stream("other", "model: 'other'"))
        daemon.put_trace()
        self.router("trace").wait_for("the model's blocks", present)
        self.assertEqual(self.router("other").wait_for("the beginning", len), [{"type": "AllBlocksCleared"}])

    def test_only_what_is_a_request_is_replayed(self):
        self.daemon(self.stream("e"))
        router = self.router("e")
        for frames in ([b"\0" * 8], [b"", b"short"], [b"", b"\0" * 9], [b"x", b"\0" * 8], [b""] * 5):
            router.replay.send_multipart(frames)
        self.assertEqual(router.ask(), 1, "the first message, and no answer to the others")
        self.assertEqual(router.ask(first=1), 0)

    def test_sockets_are_for_the_daemons_group(self):
        self.daemon(self.stream("e"))
        for name in ("e", "e-replay"):
            self.assertEqual(pathlib.Path(f"{self.folder}/{name}.sock").stat().st_mode & 0o777, 0o660)

    def test_an_endpoint_that_is_taken_stops_the_start(self):
        self.daemon(self.stream("e"))
        second = subprocess.run(
            [support.program("KVSTOWD"), f"--unix_socket={self.folder}/2.sock", "--metrics=none", "--device=cpu",
             f"--events=ipc://{self.folder}/e.sock"], capture_output=True, text=True, timeout=60)
        self.assertEqual(second.returncode, 1)
        self.assertIn(f"{self.folder}/e.sock is in use by a running process", second.stdout + second.stderr)
        self.router("e").wait_for("the first daemon's stream", len)

    def test_a_wrong_endpoint_is_a_wrong_configuration(self):
        done = subprocess.run([support.program("KVSTOWD"), "--events=tcp://0.0.0.0:5557", "--check_config"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 78)
        self.assertIn("events[0].endpoint: 'tcp://0.0.0.0:5557'", done.stderr)
        self.assertIn("--insecure", done.stderr)


if __name__ == "__main__":
    support.main()
