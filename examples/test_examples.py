"""Tests of the Python examples that need no daemon: `python3 -m unittest discover --start-directory examples`."""

import http.server
import json
import os
import socket
import sys
import tempfile
import threading
import unittest
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "replay")]

import check  # noqa: E402
import swarmkeep_agent  # noqa: E402
import traces  # noqa: E402
import worker  # noqa: E402
from evidence import Acks, Lines, do_outside, outside_counts, read_lines  # noqa: E402
from swarmkeep_agent import (NOT_DONE, Conflict, Done, EffectFailed, Invalid, OutcomeUnknown, RequestIds,  # noqa: E402
                             ResultNotKept, StateFileInUse, Swarm, SwarmError, Unreachable)


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers with what a test has put in line: (status, JSON), "drop" (hang up), or raw bytes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, self.headers.get("Idempotency-Key"), body))
        answer = self.server.script.pop(0)
        if answer == "drop":
            self.close_connection = True
            return
        if isinstance(answer, bytes):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)
            self.close_connection = True
            return
        status, document = answer
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST

    def log_message(self, *_):
        pass


def reply(*outcomes, seq=7, **more):
    return 200, {"first": seq, "head": {"seq": seq, "hash": f"{seq:064x}"}, "outcomes": list(outcomes), **more}


def problem(status, code, **more):
    return status, {"code": code, "detail": code + " happened", **more}


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
        self.server.daemon_threads = True
        self.server.script, self.server.seen = [], []
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.swarm = Swarm(f"http://127.0.0.1:{self.server.server_address[1]}", "team/night", client="c", patience=30)

    def tearDown(self):
        self.swarm.close()
        self.server.shutdown()
        self.server.server_close()

    def answers(self, *script):
        self.server.script[:] = script

    def agent(self):
        self.answers(problem(409, "already_exists"))
        return self.swarm.agent("planner")

    def test_a_repeat_carries_the_same_request_id(self):
        self.answers("drop", problem(503, "unknown"), problem(503, "unavailable"), reply({"done": {}}, repeated=True))
        answer = self.swarm.submit([{"resume": {}}])
        self.assertTrue(answer.repeated)
        self.assertEqual({(path, request) for _, path, request, _ in self.server.seen},
                         {("/v1/sessions/team/night/commands", "c:1")})
        self.assertEqual(len(self.server.seen), 4)
        self.answers(reply())
        self.swarm.submit([{"resume": {}}])
        self.assertEqual(self.server.seen[-1][2], "c:2")

    def test_problems_are_typed_and_not_retried(self):
        self.answers(problem(409, "conflict", current=41))
        with self.assertRaises(Conflict) as caught:
            self.swarm.set("plan", {}, if_version=3)
        self.assertEqual(caught.exception.current, 41)
        self.answers(problem(418, "teapot"))
        with self.assertRaises(SwarmError) as caught:
            self.swarm.info()
        self.assertEqual(caught.exception.code, "teapot")

    def test_patience_ends(self):
        gone = Swarm("unix:/nowhere/at/all/control.sock", "x", patience=0)
        with self.assertRaises(Unreachable):
            gone.info()

    def test_compare_and_set_tries_again(self):
        self.answers((200, {"value": 4, "version": 9}), problem(409, "conflict", current=12),
                     (200, {"value": 5, "version": 12}), reply())
        self.assertEqual(self.swarm.cas("n", lambda value: value + 1), 6)
        sent = json.loads(self.server.seen[-1][3])["commands"][0]["set_memory"]
        self.assertEqual((sent["value"], sent["if_version"]), (6, 12))

    def test_an_effect_runs_once_and_is_recorded(self):
        agent, done = self.agent(), []
        self.answers(reply({"run": {"attempt": 1}}), reply({"done": {}}))
        self.assertEqual(agent.effect_run("mail", lambda: done.append(1) or "sent"), "sent")
        finish = json.loads(self.server.seen[-1][3])["commands"][0]["finish_effect"]
        self.assertEqual(finish, {"effect": "mail", "attempt": 1, "outcome": {"ok": True, "value": "sent"}})
        self.answers(reply({"recorded": {"outcome": {"ok": True, "value": "sent"}}}))
        self.assertEqual(agent.effect_run("mail", lambda: done.append(1)), "sent")
        self.assertEqual(done, [1])

    def test_an_unknown_outcome_is_never_run(self):
        agent = self.agent()
        for answer in (problem(409, "outcome_unknown"), reply({"unknown": {"reason": "the process is gone"}})):
            self.answers(answer)
            with self.assertRaises(OutcomeUnknown) as raised:
                agent.effect_run("mail", self.fail)
            self.assertIn("swarm.resolve('mail', by='user:NAME', done=True, value=RESULT)", str(raised.exception))

    def test_a_reconciler_settles_a_doubt(self):
        agent, stands = self.agent(), (200, {"id": "mail", "status": "outcome_unknown"})
        self.answers(problem(409, "outcome_unknown"), stands, reply({"done": {}}),
                     reply({"recorded": {"outcome": {"ok": True, "value": 17}}}))
        self.assertEqual(agent.effect_run("mail", self.fail, reconcile=lambda effect: Done(17)), 17)
        settled = json.loads(self.server.seen[-2][3])["commands"][0]["resolve_effect"]
        self.assertEqual((settled["outcome"], settled["by"][:11]), ({"ok": True, "value": 17}, "reconciler:"))
        self.answers(reply({"unknown": {"reason": "the process is gone"}}), stands, reply({"done": {}}),
                     reply({"run": {"attempt": 2}}), reply({"done": {}}))
        self.assertEqual(agent.effect_run("post", lambda: "sent", reconcile=lambda effect: NOT_DONE), "sent")
        self.answers(problem(409, "outcome_unknown"), stands)
        with self.assertRaises(OutcomeUnknown):
            agent.effect_run("bill", self.fail, reconcile=lambda effect: None)
        self.answers(problem(409, "outcome_unknown"))
        with self.assertRaises(OutcomeUnknown):
            agent.effect_run("fire", self.fail, "ask", reconcile=self.fail)

    def test_a_certain_failure_is_recorded_and_an_uncertain_one_is_left_open(self):
        agent = self.agent()

        def certain():
            raise EffectFailed("no such address")

        def uncertain():
            raise TimeoutError("no answer")

        self.answers(reply({"run": {"attempt": 1}}), reply({"done": {}}))
        with self.assertRaises(EffectFailed):
            agent.effect_run("mail", certain)
        self.assertFalse(json.loads(self.server.seen[-1][3])["commands"][0]["finish_effect"]["outcome"]["ok"])
        self.answers(reply({"run": {"attempt": 1}}))
        with self.assertRaises(TimeoutError):
            agent.effect_run("post", uncertain)
        first = json.loads(self.server.seen[-1][3])["commands"][0]["begin_effect"]["instance"]
        self.answers(problem(409, "outcome_unknown"))
        with self.assertRaises(OutcomeUnknown):
            agent.effect_run("post", self.fail)
        again = json.loads(self.server.seen[-1][3])["commands"][0]["begin_effect"]["instance"]
        self.assertNotEqual(first, again)

    def test_a_feed_goes_on_after_its_last_whole_event(self):
        def event(seq):
            return b'id: T-%d\nevent: custom\ndata: {"seq":%d,"hash":"h"}\n\n' % (seq, seq)

        self.answers(b": hello\n\n" + event(1) + event(2) + event(3)[:-1], event(3) + b"event: closing\ndata: {}\n\n",
                     event(4))
        items = list(self.swarm.feed("start", until=4))
        self.assertEqual([item.seq for item in items], [1, 2, 3, 4])
        self.assertEqual([path.rpartition("=")[2] for _, path, _, _ in self.server.seen], ["start", "T-2", "T-3"])

    def test_a_feed_that_was_cut_off_before_an_item_goes_on_from_its_start(self):
        item = b'id: T-5\nevent: custom\ndata: {"seq":5,"hash":"h"}\n\n'
        self.answers(b"retry: 500\nid: T-4\n\n", b"retry: 500\nid: T-4\n\n" + item)
        self.assertEqual([item.seq for item in self.swarm.feed("now", until=5)], [5])
        self.assertEqual([path.rpartition("=")[2] for _, path, _, _ in self.server.seen], ["now", "T-4"])

    def test_an_effect_whose_result_is_no_json_is_recorded_as_done(self):
        agent = self.agent()
        for result in ({1, 2}, float("nan"), b"bytes"):
            self.answers(reply({"run": {"attempt": 1}}), reply({"done": {}}))
            with self.assertRaises(ResultNotKept) as caught:
                agent.effect_run("mail", lambda: result)
            outcome = json.loads(self.server.seen[-1][3])["commands"][0]["finish_effect"]["outcome"]
            self.assertTrue(outcome["ok"])
            self.assertEqual(outcome["value"], caught.exception.mark)
            self.assertEqual(outcome["value"]["repr"], repr(result))
        self.answers(reply({"run": {"attempt": 1}}), problem(413, "limit"), reply({"done": {}}))
        with self.assertRaises(ResultNotKept):
            agent.effect_run("mail", lambda: "x" * 5000)
        self.assertEqual(len(json.loads(self.server.seen[-1][3])["commands"][0]["finish_effect"]["outcome"]["value"]["repr"]),
                         1000)
        with self.assertRaises(Invalid):
            self.swarm.set("k", {1, 2})

    def test_what_cannot_be_called_is_said_before_the_begin(self):
        agent = self.agent()
        before = len(self.server.seen)
        for wrong in ("no function", lambda needed: needed):
            with self.assertRaises(TypeError):
                agent.effect_run("mail", wrong)
        self.assertEqual(len(self.server.seen), before)

    def test_a_name_goes_into_the_path_as_it_is(self):
        for name, path in [("team/spaced name", "team/spaced%20name"), ("ünï", "default/%C3%BCn%C3%AF"),
                           ("a?b#c", "default/a%3Fb%23c")]:
            swarm = Swarm(f"http://127.0.0.1:{self.server.server_address[1]}", name, client="c", patience=30)
            self.answers(problem(400, "invalid"))
            with self.assertRaises(Invalid):
                swarm.open()
            swarm.close()
            self.assertEqual(self.server.seen[-1][1], f"/v1/sessions/{path}/open")

    def test_every_code_has_its_class(self):
        codes = ["invalid", "unauthorized", "forbidden", "not_found", "method_not_allowed", "timeout", "conflict",
                 "already_exists", "lease_lost", "wrong_state", "session_not_live", "outcome_unknown", "in_progress",
                 "diverged", "request_too_old", "precondition_failed", "limit", "unsupported_media_type",
                 "request_mismatch", "internal", "corrupt", "retry", "unavailable", "fenced_out",
                 "unknown"]
        for code in codes:
            kind = swarmkeep_agent._BY_CODE[code]
            self.assertIn(kind.__name__, swarmkeep_agent.__all__)
        for name in swarmkeep_agent.__all__:
            self.assertTrue(hasattr(swarmkeep_agent, name), name)

    def test_what_patience_cannot_mend_is_said_at_once(self):
        port = self.server.server_address[1]
        secure = Swarm(f"https://127.0.0.1:{port}", "night", client="c", patience=None)
        with self.assertRaisesRegex(Unreachable, "use http://"):
            secure.info()
        listener = socket.create_server(("127.0.0.1", 0))

        def alert():
            with listener.accept()[0] as stream:
                stream.recv(65536)
                stream.sendall(b"\x15\x03\x03\x00\x02\x02P")

        threading.Thread(target=alert, daemon=True).start()
        plain = Swarm(f"http://127.0.0.1:{listener.getsockname()[1]}", "night", client="c", patience=None)
        with self.assertRaisesRegex(Unreachable, "use https://"):
            plain.info()
        listener.close()

    def test_an_address_may_do_without_its_scheme(self):
        port = self.server.server_address[1]
        self.answers((200, {"name": "x"}))
        short = Swarm(f"127.0.0.1:{port}", "x")
        self.assertEqual(short.info()["name"], "x")
        short.close()
        for wrong in ("ftp://127.0.0.1", ""):
            with self.assertRaises(ValueError):
                Swarm(wrong, "x")

    def test_the_heartbeat_of_a_terminated_agent_stops_and_says_so(self):
        agent = self.agent()
        self.answers(problem(409, "wrong_state"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            agent.start_heartbeat(interval=0.01)
            agent._thread.join(timeout=10)
            self.assertFalse(agent._thread.is_alive())
        self.assertIn("wrong_state happened", str(caught[0].message))
        self.assertEqual(len([path for _, path, _, _ in self.server.seen if path.endswith("/heartbeat")]), 1)

    def test_an_agent_that_is_closed_says_that_it_rests_and_one_that_fails_does_not(self):
        beats = lambda: [json.loads(body) for _, path, _, body in self.server.seen if path.endswith("/heartbeat")]  # noqa: E731
        self.answers(reply({"done": {"id": "a"}}), (200, {"accepted": 1}), reply({"done": {"id": "b"}}))
        with self.swarm.agent("a"):
            pass
        self.assertEqual(beats(), [{"last": True}])
        with self.assertRaises(KeyError), self.swarm.agent("b"):
            raise KeyError
        self.assertEqual(len(beats()), 1)

    def test_a_new_process_goes_on_with_what_the_one_before_it_held(self):
        agent = self.agent()
        self.answers((200, {"tasks": [{"id": "t1", "kind": "mail", "title": "write", "lease": {"number": 3}}]}),
                     reply({"claimed": {"task": "t2", "lease": 1, "lease_ms": 60000}}), reply({"claimed": {}}))
        tasks = [agent.claim(), agent.claim(), agent.claim()]
        self.assertEqual([(task.id, task.lease) for task in tasks[:2]], [("t1", 3), ("t2", 1)])
        self.assertEqual((tasks[0].title, tasks[2]), ("write", None))

    def test_text_without_utf_8_can_be_sent(self):
        self.answers(reply())
        self.swarm.set("name", "broken \ud83d emoji")
        self.assertIn(b"\\ud83d", self.server.seen[-1][3])


class FilesTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def test_request_numbers_are_never_used_twice(self):
        path = os.path.join(self.folder, "ids")
        used = set()
        for _ in range(5):
            ids = RequestIds(state_file=path)
            with self.assertRaises(StateFileInUse):
                RequestIds(state_file=path)
            fresh = {ids.next() for _ in range(RequestIds.RESERVE + 3)}
            ids.close()
            self.assertFalse(fresh & used)
            used |= fresh
        self.assertEqual(len({id.rpartition(":")[0] for id in used}), 1)

    def test_a_torn_line_counts_as_not_written(self):
        acks = Acks(self.folder, "a")
        path = os.path.join(self.folder, "acks", "a.jsonl")
        for number in range(3):
            Lines.append(acks, {"op": str(number)})
        with open(path, "ab") as file:
            file.write(b'{"op":"to')
        self.assertEqual(len(read_lines(path)), 3)
        Lines(path).append({"op": "4"})
        self.assertEqual([entry["op"] for entry in read_lines(path)], ["0", "1", "2", "4"])

    def test_a_torn_side_effect_counts_as_not_done(self):
        do_outside(self.folder, "a")
        with open(os.path.join(self.folder, "outside.txt"), "a") as file:
            file.write("\nb do")
        do_outside(self.folder, "c")
        do_outside(self.folder, "c")
        self.assertEqual(outside_counts(self.folder), {"a": 1, "c": 2})

    def test_a_file_that_is_not_a_trace_is_named(self):
        path = Path(self.folder, "x.traj")
        for text in ("{", '{"history": []}'):
            path.write_text(text)
            with self.assertRaisesRegex(ValueError, "x.traj"):
                traces.load(self.folder)

    def test_generated_runs_have_every_shape_and_are_the_same_for_a_seed(self):
        first, second = traces.generate(5), traces.generate(5)
        self.assertEqual([[vars(step) for step in trace.steps] for trace in first],
                         [[vars(step) for step in trace.steps] for trace in second])
        steps = [step for trace in first for step in trace.steps]
        self.assertEqual({type(step.state) for step in steps}, {str, dict})
        self.assertTrue(any(len(step.observation.encode()) > traces.BLOB_OVER for step in steps))
        self.assertTrue(first[-1].history and not first[-1].steps)
        self.assertEqual(len({trace.agent for trace in first}), len(first))

    def test_every_operation_has_its_own_name_and_place(self):
        for trace in traces.generate(1):
            names = [op for op, *_ in worker.program(trace, 3)]
            self.assertEqual(len(names), len(set(names)))


class CheckTest(unittest.TestCase):
    """The checks on evidence made by hand: whole it passes, spoiled in any way it does not."""

    def evidence(self):
        evidence = check.Evidence.__new__(check.Evidence)
        kinds = ["session_created", "task_created", "effect_begun", "effect_finished", "message_sent", "message_acknowledged",
                 "memory_set", "memory_set", "task_completed"]
        evidence.records = [{"seq": seq, "hash": f"{seq:064x}", "time_ms": seq, "type": kind, "request": f"a:{seq}",
                             "data": {"message": "m"}} for seq, kind in enumerate(kinds, start=1)]
        evidence.acks = {"a": [{"op": f"op{r['seq']}", "request": r["request"], "first": r["seq"], "seq": r["seq"],
                                "hash": r["hash"]} for r in evidence.records]}
        evidence.outside, evidence.doubts = {"e": 1}, [{"effect": "e", "seq": 3, "count": 0}]
        evidence.feed = [{"seq": r["seq"], "hash": r["hash"]} for r in evidence.records]
        evidence.state = {"version": 1, "head": {"seq": 9, "hash": f"{9:064x}"},
                          "tasks": [{"id": "t", "status": "completed", "leases": 2}],
                          "effects": [{"id": "e", "status": "finished", "attempt": 2}],
                          "memory": [{"scope": "shared", "key": "runs", "value": 2, "version": 8}]}
        evidence.reference = {"version": 1, "head": {"seq": 5, "hash": "x"},
                              "tasks": [{"id": "t", "status": "completed", "leases": 1}],
                              "effects": [{"id": "e", "status": "finished", "attempt": 1}],
                              "memory": [{"scope": "shared", "key": "runs", "value": 2, "version": 4}]}
        evidence.plan = {"effects": ["e"], "messages": 1, "loops": 1, "exact_deaths": 1}
        return evidence

    def test_whole_evidence_passes(self):
        self.assertEqual(check.check(self.evidence()), [])

    def test_every_spoiled_evidence_is_found(self):
        for name, spoil in check.TAMPER.items():
            with self.subTest(name):
                evidence = self.evidence()
                spoil(evidence)
                self.assertNotEqual(check.check(evidence), [])

    def test_kills_without_a_doubt_prove_nothing(self):
        evidence = self.evidence()
        evidence.doubts = []
        self.assertIn("proves nothing", " ".join(check.check(evidence)))

    def test_a_table_that_nobody_compares_is_an_error(self):
        evidence = self.evidence()
        evidence.state["timers"] = [{"id": "x"}]
        with self.assertRaisesRegex(ValueError, "timers"):
            check.check(evidence)


if __name__ == "__main__":
    unittest.main()
