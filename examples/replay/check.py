"""What must hold after a replay, checked on the evidence alone: files in one folder, no daemon.

| file | from | holds |
|---|---|---|
| `acks/CLIENT.jsonl` | each client | every acknowledgement, synced before the client's next request |
| `outside.txt` | workers | the side effects |
| `doubts.jsonl` | the reconciler | each unknown outcome, with what it saw outside |
| `feed.jsonl` | the subscriber | each record that the feed brought |
| `records.jsonl`, `state.json` | run.py, at the end | the log read back, and the state, after one more kill |
| `reference-state.json` | run.py | the state of an undisturbed run of the same input |
| `plan.json` | run.py | what was to be done |

Masked when the two states are compared, and nothing else (`MASKED`): when it happened (`*_at_ms`), where in the log
(`created_seq`, a memory entry's `version`, the head), how often it was tried and by which process (`attempt`, `instance`,
`lease`, `leases`, `retry_count`, `error_message`), who settled a doubt and why there was one (`resolved_by`, `reason`), who
was the last to write a memory entry that all agents write (`updated_by` in scope `shared`), and the list of remembered
requests.
"""

import json
import os

from evidence import outside_counts, read_lines

MASKED = {
    "info": {"created_at_ms"},
    "agents": {"created_at_ms", "terminated_at_ms"},
    "tasks": {"created_seq", "created_at_ms", "assigned_at_ms", "started_at_ms", "completed_at_ms", "lease", "leases",
              "retry_count", "error_message"},
    "memory": {"version", "updated_at_ms"},
    "effects": {"attempt", "instance", "begun_at_ms", "finished_at_ms", "resolved_by", "reason"},
    "groups": set(),
    "messages": set(),
    "connections": set(),
    "config": set(),
}
RACED = {"updated_by"}
NOT_COMPARED = {"version", "head", "requests"}
KEYS = {"memory": ("scope", "key"), "config": ("key",)}


class Evidence:
    """Everything a replay left behind."""

    def __init__(self, folder):
        def document(name):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                return json.load(file)

        self.acks = {}
        for name in sorted(os.listdir(os.path.join(folder, "acks"))):
            if name.endswith(".jsonl"):
                self.acks[name[:-len(".jsonl")]] = read_lines(os.path.join(folder, "acks", name))
        self.outside = outside_counts(folder)
        self.doubts = read_lines(os.path.join(folder, "doubts.jsonl"))
        self.feed = read_lines(os.path.join(folder, "feed.jsonl"))
        self.records = read_lines(os.path.join(folder, "records.jsonl"))
        self.state, self.reference = document("state.json"), document("reference-state.json")
        self.plan = document("plan.json")


def check(evidence):
    """All violations, as sentences; none: everything held."""
    found = []
    for part in (acknowledged, chain, requests, states, effects, feed, messages):
        found += [f"{part.__name__}: {sentence}" for sentence in part(evidence)]
    return found


def numbers(evidence):
    """What the replay amounted to."""
    return {
        "records": len(evidence.records),
        "acknowledged": sum(1 for acks in evidence.acks.values() for ack in acks if ack["seq"]),
        "repeats answered": sum(1 for acks in evidence.acks.values() for ack in acks if ack.get("repeated")),
        "side effects": sum(evidence.outside.values()),
        "unknown outcomes": len(evidence.doubts),
        "of these done / not done": "%d / %d" % (sum(1 for doubt in evidence.doubts if doubt["count"]),
                                                 sum(1 for doubt in evidence.doubts if not doubt["count"])),
        "feed items": len(evidence.feed),
    }


def acknowledged(evidence):
    """Every acknowledged (seq, hash) is in the log with that hash."""
    by_seq = {record["seq"]: record["hash"] for record in evidence.records}
    for client, acks in evidence.acks.items():
        for ack in acks:
            if ack["seq"] == 0:
                # An answer that says "carried out before" without a position; `requests` and `states` cover it.
                if not ack.get("repeated"):
                    yield f"{client}: {ack['op']} was acknowledged without a position"
            elif ack["seq"] not in by_seq:
                yield f"LOST: {client}: {ack['op']} was acknowledged at seq {ack['seq']}, which is not in the log"
            elif by_seq[ack["seq"]] != ack["hash"]:
                yield f"LOST: {client}: {ack['op']} was acknowledged at seq {ack['seq']} with another hash"


def chain(evidence):
    """Records count 1, 2, 3, … up to the head, and time does not go back."""
    time_ms = 0
    for expected, record in enumerate(evidence.records, start=1):
        if record["seq"] != expected:
            yield f"seq {record['seq']} stands where {expected} should"
            return
        if record["time_ms"] < time_ms:
            yield f"time goes back at seq {expected}"
        time_ms = record["time_ms"]
    head = evidence.state["head"]
    last = evidence.records[-1] if evidence.records else {"seq": 0, "hash": ""}
    if (head["seq"], head["hash"]) != (last["seq"], last["hash"]):
        yield f"the state's head is {head['seq']}, the last record is {last['seq']}"


def requests(evidence):
    """A request is one group of records, never two; an acknowledged group is that request's."""
    ends, by_seq = {}, {}
    for record in evidence.records:
        by_seq[record["seq"]] = record
        request = record.get("request")
        if request is None:
            continue
        if request in ends and ends[request] != record["seq"] - 1:
            yield f"REPEATED: request {request} was carried out twice, up to seq {ends[request]} and at {record['seq']}"
        ends[request] = record["seq"]
    for client, acks in evidence.acks.items():
        for ack in acks:
            if ack["request"] and ack["first"] and ack["seq"]:
                for seq in range(ack["first"], ack["seq"] + 1):
                    if seq in by_seq and by_seq[seq].get("request") != ack["request"]:
                        yield f"{client}: seq {seq} is not of request {ack['request']}, which was acknowledged there"


def states(evidence):
    """Each entity ends as in the undisturbed run."""
    for table in sorted(set(evidence.state) | set(evidence.reference)):
        if table in NOT_COMPARED:
            continue
        mine, other = _rows(table, evidence.state.get(table)), _rows(table, evidence.reference.get(table))
        for key in sorted(set(mine) | set(other)):
            name = f"{table} {'/'.join(key)}"
            if key not in mine:
                yield f"{name} is missing"
            elif key not in other:
                yield f"{name} is in no undisturbed run"
            elif mine[key] != other[key]:
                fields = sorted(f for f in set(mine[key]) | set(other[key]) if mine[key].get(f) != other[key].get(f))
                first = fields[0]
                yield (f"{name} differs in {', '.join(fields)}: {first} is {_short(mine[key].get(first))}, undisturbed "
                       f"{_short(other[key].get(first))}")


def _rows(table, rows):
    if table not in MASKED:
        raise ValueError(f"the state has a table `{table}` that check.py does not know")
    if isinstance(rows, dict):
        rows = [rows]
    result = {}
    for row in rows or []:
        key = tuple(str(row[field]) for field in KEYS.get(table, ("id",)))
        masked = MASKED[table] | (RACED if table == "memory" and row["scope"] == "shared" else set())
        result[key] = {field: value for field, value in row.items() if field not in masked}
    return result


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


def effects(evidence):
    """Each action was done exactly once; before the reconciler looked, at most once; some outcomes had been unknown."""
    planned = set(evidence.plan["effects"])
    for doubt in evidence.doubts:
        if doubt["count"] > 1:
            yield f"REPEATED: {doubt['effect']} had been done {doubt['count']} times when the reconciler looked"
    for key in sorted(planned | set(evidence.outside)):
        count = evidence.outside.get(key, 0)
        if key not in planned:
            yield f"{key} was done, and nobody had planned it"
        elif count > 1:
            yield f"REPEATED: {key} was done {count} times"
        elif count == 0:
            yield f"LOST: {key} was never done"
    open_ = [effect["id"] for effect in evidence.state["effects"] if effect["status"] != "finished"]
    if open_:
        yield f"not finished: {', '.join(open_[:5])}"
    if evidence.plan["exact_deaths"] and not evidence.doubts:
        yield "workers died between begin and finish, and no outcome was ever unknown: the replay proves nothing"


def feed(evidence):
    """The subscriber saw every record once, in order, with its hash."""
    seen = [(item["seq"], item["hash"]) for item in evidence.feed]
    log = [(record["seq"], record["hash"]) for record in evidence.records]
    if seen == log:
        return
    for place, (item, record) in enumerate(zip(seen, log)):
        if item != record:
            yield f"item {place + 1} is seq {item[0]}, the log has {record[0]} there (or another hash)"
            return
    yield f"{len(seen)} items, the log has {len(log)} records"


def messages(evidence):
    """Every message was consumed exactly once."""
    sent, consumed = {}, {}
    for record in evidence.records:
        data = record.get("data") or {}
        if record["type"] == "message_sent":
            sent[data["message"]] = sent.get(data["message"], 0) + 1
        elif record["type"] == "message_acknowledged":
            consumed[data["message"]] = consumed.get(data["message"], 0) + 1
        elif record["type"] == "message_dead_lettered":
            yield f"{data['message']} became a dead letter"
    if len(sent) != evidence.plan["messages"]:
        yield f"{len(sent)} messages were sent, {evidence.plan['messages']} were planned"
    for message in sorted(set(sent) | set(consumed)):
        if (sent.get(message), consumed.get(message)) != (1, 1):
            yield f"{message} was sent {sent.get(message, 0)} and consumed {consumed.get(message, 0)} times"


# ── teeth ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _an_ack(evidence):
    acks = max(evidence.acks.values(), key=len)
    return next(ack for ack in acks[len(acks) // 2:] if ack["first"] and ack["request"])


def _wrong_hash(evidence):
    ack = _an_ack(evidence)
    ack["hash"] = ("0" if ack["hash"][0] != "0" else "1") + ack["hash"][1:]


def _fake_ack(evidence):
    head = evidence.records[-1]["seq"]
    next(iter(evidence.acks.values())).append(
        {"op": "fake", "request": None, "first": head + 1, "seq": head + 1, "hash": "ff" * 32})


def _lost_record(evidence):
    del evidence.records[len(evidence.records) // 2]


def _lost_tail(evidence):
    del evidence.records[-1]


def _group_twice(evidence):
    ack = _an_ack(evidence)
    evidence.records[-1]["request"] = evidence.records[ack["first"] - 1]["request"]


def _side_effect_twice(evidence):
    evidence.outside[evidence.plan["effects"][0]] += 1


def _side_effect_never(evidence):
    del evidence.outside[evidence.plan["effects"][-1]]


def _feed_twice(evidence):
    evidence.feed.insert(1, evidence.feed[0])


def _feed_hole(evidence):
    del evidence.feed[len(evidence.feed) // 2]


def _lost_update(evidence):
    row = next(row for row in evidence.state["memory"] if (row["scope"], row["key"]) == ("shared", "runs"))
    row["value"] -= 1


def _lost_entity(evidence):
    del evidence.state["tasks"][0]


def _unconsumed(evidence):
    place = next(i for i, record in enumerate(evidence.records) if record["type"] == "message_acknowledged")
    evidence.records[place] = dict(evidence.records[place], type="custom")


TAMPER = {
    "wrong-hash": _wrong_hash,
    "fake-ack": _fake_ack,
    "lost-record": _lost_record,
    "lost-tail": _lost_tail,
    "group-twice": _group_twice,
    "side-effect-twice": _side_effect_twice,
    "side-effect-never": _side_effect_never,
    "feed-twice": _feed_twice,
    "feed-hole": _feed_hole,
    "lost-update": _lost_update,
    "lost-entity": _lost_entity,
    "unconsumed-message": _unconsumed,
}
"""Ways to spoil the evidence, each of which the checks must find."""
