//! `views.db`: batch by batch, caught up, or made again, it says the same, and what the state says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)] // a test

mod world;

use std::path::Path;

use swarmkeep_core::{
    EntityId, Hash, Json,
    log::{Observation, Position, Remove},
    tabulate::TABLES,
    testing::{Draw, History, command},
};
use swarmkeep_sqlite::{ApplyBatch, Entry, RecordsDb, RecordsReader, Source, SqliteError, ViewsDb, What};
use world::{dump, entries_of, options};

fn source(db: &RecordsDb) -> Source<'_> {
    Source::new(db.reader())
}

fn catch_up(views: &mut ViewsDb, db: &RecordsDb) {
    views.catch_up(&source(db), &mut |_, _| {}).unwrap();
}

fn fresh(dir: &Path, name: &str) -> ViewsDb {
    ViewsDb::open(&dir.join(name), options()).unwrap()
}

fn batch(entries: Vec<Entry>) -> ApplyBatch {
    let position = entries.iter().map(|entry| entry.position).max().unwrap();
    ApplyBatch { position, frame_hash: Hash([position.0 as u8; 32]), incarnation: 1, entries }
}

fn observations(draw: &mut Draw) -> What {
    let agent = EntityId::new(format!("agent{}", draw.below(4))).unwrap();
    let at_ms = 1_000 + draw.below(1_000_000) as u64;
    let tags = Json::parse(if draw.one_in(2) { "null" } else { r#"{"a":1}"# }).unwrap();
    What::Observations(vec![
        Observation::Heartbeat { agent: agent.clone(), at_ms },
        Observation::Metric { agent, kind: "usage".into(), name: "tokens".into(), value: 0.5, tags, at_ms },
    ])
}

/// Histories with forks and rewinds, cut into batches of several sizes.
fn lives(seed: u64) -> (Vec<History>, Vec<ApplyBatch>) {
    let mut draw = Draw::new(seed);
    let mut histories = Vec::new();
    for nth in 0..3 {
        let steps: Vec<u64> = (0..40 + draw.below(60)).map(|_| draw.number()).collect();
        histories.push(History::of(&format!("h{nth}"), &steps));
    }
    let fork = histories[0].fork(7, "forked");
    histories.push(fork);
    let mut entries: Vec<Entry> = Vec::new();
    for history in &histories {
        for entry in entries_of(history, 1) {
            if draw.one_in(9) {
                entries.push(Entry { what: observations(&mut draw), ..entry.clone() });
            }
            entries.push(entry);
        }
    }
    entries.sort_by_key(|entry| entry.position);
    let mut batches = Vec::new();
    while !entries.is_empty() {
        let last = entries[(draw.below(20)).min(entries.len() - 1)].position;
        let rest = entries.split_off(entries.iter().take_while(|entry| entry.position <= last).count());
        batches.push(batch(std::mem::replace(&mut entries, rest)));
    }
    (histories, batches)
}

#[test]
fn incremental_caught_up_and_rebuilt_views_are_equal_and_agree_with_the_state() {
    for seed in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
        let (mut steady, mut late, mut all) =
            (fresh(dir.path(), "a.db"), fresh(dir.path(), "b.db"), fresh(dir.path(), "c.db"));
        let (histories, batches) = lives(seed);
        for (nth, batch) in batches.iter().enumerate() {
            db.apply(batch).unwrap();
            steady.apply(batch, &source(&db)).unwrap();
            // The same again changes nothing.
            steady.apply(batch, &source(&db)).unwrap();
            if nth % 5 == 3 {
                catch_up(&mut late, &db);
            }
        }
        catch_up(&mut late, &db);
        catch_up(&mut all, &db);
        // Heartbeats are not state: one of an agent that a rewind took away is kept only by whoever reads all at once.
        let heard = "UPDATE agents SET last_heartbeat = created_at";
        for views in [&steady, &late, &all] {
            views.connection().execute(heard, []).unwrap();
        }
        let expected = dump(steady.connection());
        for (name, views) in [("caught up", &late), ("made anew", &all)] {
            let found = dump(views.connection());
            let only: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
            let more: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
            // Messages that had left the state before a rewind are known only to whoever saw them.
            let lines = |lines: &[&String]| {
                lines.iter().filter(|line| !line.starts_with("message")).map(ToString::to_string).collect::<Vec<_>>()
            };
            assert_eq!((lines(&only), lines(&more)), (vec![], vec![]), "seed {seed}, {name}");
            assert_eq!(views.position(), steady.position());
        }
        for history in &histories {
            let found = ViewsDb::differences(steady.connection(), history.state()).unwrap();
            assert!(found.is_empty(), "seed {seed}: {found:?}");
            for (name, views) in [("steady", &steady), ("caught up", &late), ("made anew", &all)] {
                let session = history.state().info.id;
                let found = ViewsDb::differences_beyond_state(views.connection(), &source(&db), session).unwrap();
                assert!(found.is_empty(), "seed {seed}, {name}: {found:?}");
            }
        }
        steady.rebuild(&source(&db), &mut |_, _| {}).unwrap();
        steady.connection().execute(heard, []).unwrap();
        assert_eq!(dump(steady.connection()), dump(all.connection()), "seed {seed}");
    }
}

/// A records.db that was put together of what was left of several has rows of records beyond the position that it says, and
/// what comes next out of the journal begins at that position.
#[test]
fn records_beyond_the_position_are_tabulated_once() {
    for seed in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.db");
        let mut db = RecordsDb::open(&path, options()).unwrap();
        let mut steady = fresh(dir.path(), "a.db");
        let (histories, batches) = lives(seed);
        for batch in &batches {
            db.apply(batch).unwrap();
            steady.apply(batch, &source(&db)).unwrap();
        }
        let again = batches.len() / 3;
        let stands = &batches[again - 1];
        db.stand_at(stands.position, stands.frame_hash, stands.incarnation).unwrap();
        // Observations have no number of their own: of those nothing is taken that comes again.
        let beyond = stands.position.0.cast_signed();
        let by_hand = rusqlite::Connection::open(&path).unwrap();
        by_hand.execute("DELETE FROM observations WHERE position > ?1", [beyond]).unwrap();
        let mut anew = fresh(dir.path(), "b.db");
        catch_up(&mut anew, &db);
        for batch in &batches[again..] {
            db.apply(batch).unwrap();
            anew.apply(batch, &source(&db)).unwrap();
        }
        // Messages that had left the state before a rewind, and heartbeats of agents that one took away, are known only to
        // whoever saw them.
        for views in [&steady, &anew] {
            views.connection().execute("UPDATE agents SET last_heartbeat = created_at", []).unwrap();
        }
        let rows = |views: &ViewsDb| {
            let rows = dump(views.connection()).into_iter().filter(|line| !line.starts_with("message"));
            rows.collect::<Vec<_>>()
        };
        assert_eq!(rows(&anew), rows(&steady), "seed {seed}");
        for history in &histories {
            let found = ViewsDb::differences(anew.connection(), history.state()).unwrap();
            assert!(found.is_empty(), "seed {seed}: {found:?}");
        }
    }
}

#[test]
fn heartbeats_only_go_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let (mut steady, mut late) = (fresh(dir.path(), "a.db"), fresh(dir.path(), "b.db"));
    let mut history = History::new("beats");
    let spawn = swarmkeep_core::command::SpawnAgent {
        id: Some(EntityId::new("a").unwrap()),
        kind: "worker".into(),
        name: None,
        capabilities: Vec::new(),
        configuration: Json::object(),
    };
    history.command(swarmkeep_core::command::Command::SpawnAgent(spawn)).unwrap();
    let session = history.state().info.id;
    let made = batch(entries_of(&history, 1));
    let next = made.position.0 + 1;
    let beat = |position, at_ms| {
        let agent = EntityId::new("a").unwrap();
        let what = What::Observations(vec![Observation::Heartbeat { agent, at_ms }]);
        batch(vec![Entry { position: Position(position), session, what }])
    };
    for batch in [made, beat(next, 9_000), beat(next + 1, 8_000)] {
        db.apply(&batch).unwrap();
        steady.apply(&batch, &source(&db)).unwrap();
    }
    catch_up(&mut late, &db);
    for views in [&steady, &late] {
        let at: i64 = views.connection().query_row("SELECT last_heartbeat FROM agents", [], |row| row.get(0)).unwrap();
        assert_eq!(at, 9_000);
        assert!(ViewsDb::differences(views.connection(), history.state()).unwrap().is_empty());
    }
}

#[test]
fn a_change_behind_the_views_back_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let mut views = fresh(dir.path(), "views.db");
    let (histories, batches) = lives(3);
    for batch in &batches {
        db.apply(batch).unwrap();
    }
    catch_up(&mut views, &db);
    let state = histories[0].state();
    views.connection().execute("DELETE FROM agents WHERE session_id = ?1", [state.info.id.to_string()]).unwrap();
    assert!(!ViewsDb::differences(views.connection(), state).unwrap().is_empty());
}

#[test]
fn a_change_to_what_no_state_knows_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let mut views = fresh(dir.path(), "views.db");
    let mut draw = Draw::new(5);
    let mut history = History::new("talk");
    for _ in 0..400 {
        let command = command(&mut draw, history.state());
        let _ = history.command(command);
    }
    let id = history.state().info.id;
    let mut made = entries_of(&history, 1);
    for _ in 0..3 {
        let last = made.last().unwrap().position;
        made.push(Entry { position: Position(last.0 + 1), session: id, what: observations(&mut draw) });
    }
    db.apply(&batch(made)).unwrap();
    catch_up(&mut views, &db);
    let differ = |views: &ViewsDb| {
        let found = ViewsDb::differences_beyond_state(views.connection(), &source(&db), id).unwrap();
        found.into_iter().map(|line| line.split([':', ' ']).next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(differ(&views).is_empty());
    for (change, place) in [
        ("UPDATE metrics SET value = value + 1 WHERE id = 2", "metrics"),
        ("UPDATE metrics SET tags = '{}' WHERE id = 1", "metrics"),
        ("DELETE FROM metrics WHERE id = 3", "metrics"),
        (
            "UPDATE messages SET timestamp = timestamp + 1 WHERE id = (SELECT min(id) FROM messages WHERE status = 'consumed')",
            "messages",
        ),
        ("DELETE FROM messages WHERE id = (SELECT max(id) FROM messages WHERE status = 'consumed')", "messages"),
        (
            "DELETE FROM message_receipts WHERE (message_id, agent_id) = (SELECT message_id, agent_id FROM message_receipts LIMIT 1)",
            "message_receipts",
        ),
    ] {
        let changed = views.connection().execute(change, []).unwrap();
        assert_eq!(changed, 1, "{change}");
        let found = differ(&views);
        assert!(!found.is_empty() && found.iter().all(|line| line == place), "{change}: {found:?}");
        views.rebuild(&source(&db), &mut |_, _| {}).unwrap();
        assert!(differ(&views).is_empty());
    }
}

#[test]
fn a_removed_session_leaves_the_views_and_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let (mut steady, mut late) = (fresh(dir.path(), "a.db"), fresh(dir.path(), "b.db"));
    let history = History::of("gone", &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let id = history.state().info.id;
    let again = History::of("gone", &[11, 12, 13]);
    let made = batch(entries_of(&history, 1));
    let at = made.position.0;
    let gone = batch(vec![Entry { position: Position(at + 1), session: id, what: What::Remove(Remove::All) }]);
    let anew = batch(entries_of(&again, at + 2));
    for (nth, batch) in [made, gone, anew].iter().enumerate() {
        db.apply(batch).unwrap();
        steady.apply(batch, &source(&db)).unwrap();
        if nth != 1 {
            catch_up(&mut late, &db);
        } else {
            assert!(dump(steady.connection()).is_empty());
        }
    }
    assert!(ViewsDb::differences(late.connection(), again.state()).unwrap().is_empty());
    assert_eq!(dump(late.connection()), dump(steady.connection()));
}

#[test]
fn views_ahead_of_the_records_do_not_belong_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let empty = RecordsDb::open(&dir.path().join("empty.db"), options()).unwrap();
    let mut views = fresh(dir.path(), "views.db");
    db.apply(&lives(1).1[0]).unwrap();
    catch_up(&mut views, &db);
    let refused = views.catch_up(&source(&empty), &mut |_, _| {});
    assert!(matches!(refused, Err(SqliteError::Foreign { .. })), "{refused:?}");
}

#[test]
fn columns_are_those_of_tabulate() {
    let dir = tempfile::tempdir().unwrap();
    let views = fresh(dir.path(), "views.db");
    for table in TABLES {
        let mut statement =
            views.connection().prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid").unwrap();
        let columns: Vec<(String, i64)> = statement
            .query_map([table.name], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, table.columns, "{}", table.name);
        let keys: Vec<i64> = columns.iter().map(|(_, key)| *key).filter(|key| *key > 0).collect();
        assert_eq!(keys, (1..=table.key as i64).collect::<Vec<_>>(), "{}", table.name);
    }
}

/// The indexes of the schema that the system was asked for: each is the beginning of one that is here.
#[test]
fn the_seed_s_indexes_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let views = fresh(dir.path(), "views.db");
    for (index, columns) in [
        ("idx_agents_status", "status"),
        ("idx_agents_heartbeat", "last_heartbeat"),
        ("idx_tasks_status", "status"),
        ("idx_tasks_agent", "agent_id"),
        ("idx_tasks_priority", "priority,created_at"),
        ("idx_messages_timestamp", "timestamp"),
        ("idx_messages_topic", "topic"),
        ("idx_messages_correlation", "correlation_id"),
        ("idx_metrics_agent_time", "agent_id,timestamp"),
        ("idx_metrics_type", "metric_type,metric_name"),
        ("idx_events_aggregate", "aggregate_id,first_seq"),
    ] {
        let found: String = views
            .connection()
            .query_row("SELECT group_concat(name) FROM pragma_index_info(?1)", [index], |row| row.get(0))
            .unwrap_or_default();
        assert!(found.starts_with(columns), "{index}: {found}");
    }
}

#[test]
fn a_state_is_folded_from_the_nearest_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let (histories, batches) = lives(5);
    for batch in &batches {
        db.apply(batch).unwrap();
    }
    let history = &histories[1];
    let middle = &history.states[history.states.len() / 2];
    let what = What::Checkpoint(swarmkeep_core::checkpoint::Checkpoint::of(middle));
    let position = db.anchor().position;
    db.apply(&ApplyBatch { entries: vec![Entry { position, session: middle.info.id, what }], ..batches[0].clone() })
        .unwrap();
    let reader: RecordsReader<'_> = db.reader();
    assert!(reader.load(middle.info.id, middle.head.seq).unwrap().is_some());
    for state in [&history.states[0], middle, history.state()] {
        assert_eq!(&Source::new(reader).state_at(state.info.id, state.head.seq).unwrap(), state);
    }
}

#[test]
fn a_damaged_session_hides_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let (histories, batches) = lives(3);
    for batch in &batches {
        db.apply(batch).unwrap();
    }
    let hurt = histories[1].state().info.id;
    drop(db);
    let raw = rusqlite::Connection::open(&path).unwrap();
    assert!(raw.execute("UPDATE chunks SET bytes = zeroblob(length(bytes)) WHERE session = ?1", [hurt.0]).unwrap() > 0);
    assert!(raw.execute("UPDATE observations SET json = '[]' WHERE id = 1", []).unwrap() > 0);
    drop(raw);

    let db = RecordsDb::open(&path, options()).unwrap();
    let mut views = fresh(dir.path(), "views.db");
    catch_up(&mut views, &db);
    assert_eq!(views.position(), db.position().0);
    let names: Vec<(String, String)> = views
        .connection()
        .prepare("SELECT session_id, name FROM sessions ORDER BY session_id")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(names.len(), histories.len(), "{names:?}");
    assert!(names.iter().any(|(id, name)| *id == hurt.to_string() && name == "h1"), "{names:?}");
    for history in histories.iter().filter(|history| history.state().info.id != hurt) {
        assert_eq!(ViewsDb::differences(views.connection(), history.state()).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_session_that_was_put_right_is_listed_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let (histories, batches) = lives(3);
    for batch in &batches {
        db.apply(batch).unwrap();
    }
    let state = histories[1].state();
    let hurt = state.info.id;
    // What the session came to is known from here, and not on which way.
    let what = What::Checkpoint(swarmkeep_core::checkpoint::Checkpoint::of(state));
    let position = db.anchor().position;
    db.apply(&ApplyBatch { entries: vec![Entry { position, session: hurt, what }], ..batches[0].clone() }).unwrap();
    drop(db);
    let first = "session = ?1 AND first_seq = 1";
    let raw = rusqlite::Connection::open(&path).unwrap();
    let bytes: Vec<u8> =
        raw.query_row(&format!("SELECT bytes FROM chunks WHERE {first}"), [hurt.0], |row| row.get(0)).unwrap();
    let spoil = format!("UPDATE chunks SET bytes = zeroblob(length(bytes)) WHERE {first}");
    assert_eq!(raw.execute(&spoil, [hurt.0]).unwrap(), 1);
    drop(raw);

    let db = RecordsDb::open(&path, options()).unwrap();
    let mut views = fresh(dir.path(), "views.db");
    catch_up(&mut views, &db);
    drop(db);
    let events = |views: &ViewsDb| -> i64 {
        let sql = "SELECT count(*) FROM events WHERE session_id = ?1";
        views.connection().query_row(sql, [hurt.to_string()], |row| row.get(0)).unwrap()
    };
    assert!(events(&views) < state.head.seq.0.cast_signed());
    let raw = rusqlite::Connection::open(&path).unwrap();
    let mend = format!("UPDATE chunks SET bytes = ?2 WHERE {first}");
    assert_eq!(raw.execute(&mend, rusqlite::params![hurt.0, bytes]).unwrap(), 1);
    drop(raw);
    let db = RecordsDb::open(&path, options()).unwrap();
    // No record was written, and it is remembered even so.
    drop(views);
    let mut views = fresh(dir.path(), "views.db");
    catch_up(&mut views, &db);
    assert_eq!(views.incomplete().unwrap(), [hurt]);
    assert_eq!(views.catch_up_incomplete(&source(&db)).unwrap(), []);
    assert_eq!(events(&views), state.head.seq.0.cast_signed());
    assert_eq!(ViewsDb::differences(views.connection(), state).unwrap(), Vec::<String>::new());
}
