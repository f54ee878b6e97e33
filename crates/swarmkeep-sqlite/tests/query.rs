//! Every form of query gives what plain SQL gives, page by page, and walks an index to find it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)] // a test

mod world;

use rusqlite::{Connection, params_from_iter};
use swarmkeep_core::{
    SessionId,
    query::{Of, Order, Query},
};
use swarmkeep_sqlite::{ViewsDb, query};
use world::options;

const ALL: [Of; 11] = [
    Of::Sessions,
    Of::Agents,
    Of::AgentGroups,
    Of::Tasks,
    Of::Messages,
    Of::Memory,
    Of::Effects,
    Of::Connections,
    Of::SwarmConfig,
    Of::Metrics,
    Of::Events,
];

fn session(nth: u64) -> SessionId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&nth.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    SessionId(id)
}

/// Rows in every table, many with the same time.
fn fill(connection: &Connection) {
    for s in 0..12u64 {
        let id = session(s).to_string();
        let run = |sql: &str| connection.execute(sql, rusqlite::params![id, s as i64]).unwrap();
        run(
            "INSERT INTO sessions (session_id, namespace, name, owner, status, created_at, seq, updated_at) VALUES (?1, \
             'ns' || (?2 % 2), 'n' || ?2, CASE WHEN ?2 % 4 = 0 THEN NULL ELSE 'owner' || (?2 % 3) END, \
             CASE ?2 % 3 WHEN 0 THEN 'live' ELSE 'closed' END, ?2 / 2, 1, 1)",
        );
        run(
            "INSERT INTO agents WITH n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT ?1, 'a' || i, \
             'kind' || (i % 2), NULL, CASE i % 3 WHEN 0 THEN 'idle' ELSE 'busy' END, NULL, '[\"x\"]', '{}', (i + ?2) % 5, 0, NULL FROM n",
        );
        run(
            "INSERT INTO agent_groups SELECT session_id, id, 'g', type, '{}', created_at FROM agents WHERE session_id = ?1 AND ?2 >= 0",
        );
        run(
            "INSERT INTO tasks WITH n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 19) SELECT ?1, 't' || i, \
             CASE WHEN i % 3 = 0 THEN NULL ELSE 'a' || (i % 4) END, NULL, 'kind' || (i % 2), 'title \"' || i || '\"', i % 4, \
             '{\"n\":' || i || '.0}', CASE i % 3 WHEN 0 THEN 'pending' ELSE 'completed' END, \
             CASE i % 3 WHEN 0 THEN NULL ELSE '[1]' END, NULL, NULL, NULL, (i * 7 + ?2) % 11, NULL, NULL, NULL, 0, 3 FROM n",
        );
        run(
            "INSERT INTO messages SELECT session_id, id, coalesce(agent_id, 'a0'), NULL, 'broadcast', 'topic' || (priority % 2), \
             '\"text\"', NULL, created_at, CASE priority WHEN 0 THEN 'waiting' ELSE 'consumed' END, 0, 0 FROM tasks WHERE session_id = ?1 AND ?2 >= 0",
        );
        run(
            "INSERT INTO memory SELECT session_id, 'scope' || (priority % 2), id, payload, 1, created_at, NULL, NULL FROM tasks WHERE session_id = ?1 AND ?2 >= 0",
        );
        run("INSERT INTO effects SELECT session_id, id, CASE priority WHEN 0 THEN 'read' ELSE 'ask' END, \
             CASE WHEN status = 'pending' THEN 'begun' ELSE 'finished' END, agent_id, NULL, 'i', 1, 'null', NULL, created_at, 1, NULL, NULL, NULL \
             FROM tasks WHERE session_id = ?1 AND ?2 >= 0");
        run(
            "INSERT INTO connections SELECT session_id, id, '{}', '{}', status, created_at FROM agents WHERE session_id = ?1 AND ?2 >= 0",
        );
        run(
            "INSERT INTO swarm_config SELECT session_id, id, '1', created_at, NULL FROM agents WHERE session_id = ?1 AND ?2 >= 0",
        );
        run("INSERT INTO metrics (session_id, agent_id, metric_type, metric_name, value, tags, timestamp) \
             SELECT session_id, coalesce(agent_id, 'a0'), type, 'name', priority + 0.5, NULL, created_at FROM tasks WHERE session_id = ?1 AND ?2 >= 0");
        run(
            "INSERT INTO event_groups WITH n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT ?1, 'thing' || (i % 2), 'custom', \
             10 * i, 10 * i + 4, 100 * i + ?2, '[[0,\"custom\",0],[2,\"task_created\",5],[4,\"custom\",9]]' FROM n",
        );
    }
}

/// Every filter that a table knows, alone and in pairs.
fn forms(of: Of) -> Vec<Query> {
    type Filter = Box<dyn Fn(&mut Query)>;
    let filters: Vec<Filter> = vec![
        Box::new(|_| {}),
        Box::new(|query| query.session = Some(session(4))),
        Box::new(|query| query.namespace = Some("ns1".into())),
        Box::new(|query| query.owner = Some("owner1".into())),
        Box::new(|query| {
            query.status = Some(
                match query.of {
                    Of::Sessions => "closed",
                    Of::Agents | Of::Connections => "busy",
                    Of::Tasks => "completed",
                    Of::Messages => "consumed",
                    _ => "finished",
                }
                .into(),
            )
        }),
        Box::new(|query| {
            query.kind = Some(
                match query.of {
                    Of::Messages => "topic1",
                    Of::Memory => "scope1",
                    Of::Effects => "ask",
                    Of::Events => "custom",
                    _ => "kind1",
                }
                .into(),
            )
        }),
        Box::new(|query| query.agent = Some("a1".into())),
        Box::new(|query| {
            query.since_ms = Some(2);
            query.until_ms = Some(if query.of == Of::Events { 300 } else { 8 });
        }),
        Box::new(|query| {
            query.session = Some(session(4));
            query.id = Some(match query.of {
                Of::Sessions => session(4).to_string(),
                Of::Agents | Of::AgentGroups | Of::Connections | Of::SwarmConfig => "a3".into(),
                Of::Events => "thing1".into(),
                _ => "t3".into(),
            });
        }),
    ];
    let mut forms = Vec::new();
    for (nth, first) in filters.iter().enumerate() {
        for second in &filters[nth..] {
            for order in [Order::Oldest, Order::Newest, Order::Priority] {
                let mut query = Query { order, ..Query::of(of) };
                first(&mut query);
                second(&mut query);
                // What a table has no column for is refused; another test has that.
                if query::statement(&query).is_ok() {
                    forms.push(query);
                }
            }
        }
    }
    forms
}

/// The same question in the plainest SQL: all rows of the table, filtered and sorted without any index.
fn plain(query: &Query) -> (String, Vec<String>) {
    let (table, time, ties, kind, id, agent) = match query.of {
        Of::Sessions => ("sessions", "created_at", "session_id", "-", "session_id", "-"),
        Of::Agents => ("agents", "created_at", "session_id, id", "type", "id", "id"),
        Of::AgentGroups => ("agent_groups", "created_at", "session_id, id", "type", "id", "-"),
        Of::Tasks => ("tasks", "created_at", "session_id, id", "type", "id", "agent_id"),
        Of::Messages => ("messages", "timestamp", "session_id, id", "topic", "id", "from_agent"),
        Of::Memory => ("memory", "updated_at", "session_id, scope, key", "scope", "key", "-"),
        Of::Effects => ("effects", "begun_at", "session_id, id", "class", "id", "agent_id"),
        Of::Connections => ("connections", "updated_at", "session_id, id", "-", "id", "-"),
        Of::SwarmConfig => ("swarm_config", "updated_at", "session_id, key", "-", "key", "-"),
        Of::Metrics => ("metrics", "timestamp", "session_id, id", "metric_type", "-", "agent_id"),
        _ => ("events", "timestamp", "session_id", "event_type", "aggregate_id", "-"),
    };
    let mut conditions = vec!["1".to_owned()];
    let mut values = Vec::new();
    let mut add = |condition: String, value: String| {
        values.push(value);
        conditions.push(condition.replace('#', &format!("?{}", values.len())));
    };
    if let Some(session) = query.session {
        add("+session_id = #".into(), session.to_string());
    }
    for (column, value) in [("namespace", &query.namespace), ("owner", &query.owner)] {
        if let Some(value) = value {
            add(format!("(SELECT {column} FROM sessions s WHERE s.session_id = x.session_id) = #"), value.clone());
        }
    }
    for (column, value) in [("status", &query.status), (kind, &query.kind), (agent, &query.agent), (id, &query.id)] {
        if let Some(value) = value {
            add(format!("+{column} = #"), value.clone());
        }
    }
    if let Some(since) = query.since_ms {
        add(format!("+{time} >= CAST(# AS INTEGER)"), since.to_string());
    }
    if let Some(until) = query.until_ms {
        add(format!("+{time} < CAST(# AS INTEGER)"), until.to_string());
    }
    let down = if query.order == Order::Newest { " DESC" } else { "" };
    let order: Vec<String> = std::iter::once(if query.of == Of::Events { "sequence_number" } else { time })
        .chain(ties.split(", "))
        .map(|column| format!("{column}{down}"))
        .collect();
    let priority = if query.order == Order::Priority { "priority DESC, " } else { "" };
    let row = if query.of == Of::Sessions || query.of == Of::Events {
        ties.to_owned()
    } else {
        ties.replace(", ", " || '/' || ")
    };
    let sql = format!(
        "SELECT {row} || ' ' || {} FROM {table} x WHERE {} ORDER BY {priority}{}",
        if query.of == Of::Events { "sequence_number" } else { time },
        conditions.join(" AND "),
        order.join(", ")
    );
    (sql, values)
}

/// What identifies the rows of an answer, in the words of [`plain`].
fn names(query: &Query, rows: &[swarmkeep_core::Json]) -> Vec<String> {
    rows.iter()
        .map(|row| {
            let row: serde_json::Value = serde_json::from_str(row.as_str()).unwrap();
            let text = |column: &str| row[column].as_str().unwrap_or_default().to_owned();
            let number = |column: &str| row[column].as_i64().unwrap();
            match query.of {
                Of::Sessions => format!("{} {}", text("session_id"), number("created_at")),
                Of::Memory => {
                    format!("{}/{}/{} {}", text("session_id"), text("scope"), text("key"), number("updated_at"))
                }
                Of::SwarmConfig => format!("{}/{} {}", text("session_id"), text("key"), number("updated_at")),
                Of::Connections => format!("{}/{} {}", text("session_id"), text("id"), number("updated_at")),
                Of::Effects => format!("{}/{} {}", text("session_id"), text("id"), number("begun_at")),
                Of::Messages => format!("{}/{} {}", text("session_id"), text("id"), number("timestamp")),
                Of::Metrics => format!("{} {}", text("session_id"), number("timestamp")),
                Of::Events => format!("{} {}", text("session_id"), number("sequence_number")),
                _ => format!("{}/{} {}", text("session_id"), text("id"), number("created_at")),
            }
        })
        .collect()
}

#[test]
fn every_form_gives_what_plain_sql_gives() {
    let dir = tempfile::tempdir().unwrap();
    let views = ViewsDb::open(&dir.path().join("views.db"), options()).unwrap();
    fill(views.connection());
    let mut found = 0;
    for query in ALL.into_iter().flat_map(forms) {
        let (sql, values) = plain(&query);
        let mut statement = views.connection().prepare(&sql).unwrap();
        let expected: Vec<String> = statement
            .query_map(params_from_iter(&values), |row| row.get::<_, String>(0))
            .unwrap()
            .map(|row| {
                let row = row.unwrap();
                // A metric's running number is not in its answer.
                if query.of == Of::Metrics {
                    let (session, rest) = row.split_once('/').unwrap();
                    format!("{session} {}", rest.split_once(' ').unwrap().1)
                } else {
                    row
                }
            })
            .collect();
        for limit in [7, 1000] {
            let mut page = Query { limit: Some(limit), ..query.clone() };
            let mut answer = Vec::new();
            loop {
                let got = query::find(views.connection(), &page).unwrap();
                assert!(got.rows.len() <= limit as usize);
                answer.extend(names(&query, &got.rows));
                page.cursor = got.next;
                if page.cursor.is_none() {
                    break;
                }
            }
            assert_eq!(answer, expected, "{query:?}\n{sql}");
        }
        found += expected.len();
    }
    assert!(found > 10_000, "the questions found something: {found}");
}

#[test]
fn every_form_walks_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let views = ViewsDb::open(&dir.path().join("views.db"), options()).unwrap();
    for query in ALL.into_iter().flat_map(forms) {
        let statement = query::statement(&query).unwrap();
        let mut explain = views.connection().prepare(&format!("EXPLAIN QUERY PLAN {}", statement.sql)).unwrap();
        let plan: Vec<String> = explain
            .query_map(params_from_iter(&statement.parameters), |row| row.get::<_, String>(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let whole: Vec<&String> = plan
            .iter()
            .filter(|step| step.starts_with("SCAN") && !step.contains("USING INDEX") && !step.contains("VIRTUAL TABLE"))
            .collect();
        assert!(whole.is_empty(), "{query:?}\n{}\n{plan:#?}", statement.sql);
        // A sort only where it is said: the rows of an owner's or a namespace's sessions, the events of one session, by
        // priority what another filter has picked; and the one row of an id.
        let sorted = plan.iter().any(|step| step.contains("TEMP B-TREE FOR ORDER BY"));
        let driven = query.of != Of::Sessions && (query.owner.is_some() || query.namespace.is_some());
        let priority = query.order == Order::Priority
            && (query.kind.is_some() || query.agent.is_some() || query.since_ms.is_some());
        assert!(
            !sorted || driven || query.of == Of::Events || query.id.is_some() || priority,
            "{query:?}\n{}\n{plan:#?}",
            statement.sql
        );
    }
}

#[test]
fn json_columns_are_json_and_text_is_text() {
    let dir = tempfile::tempdir().unwrap();
    let views = ViewsDb::open(&dir.path().join("views.db"), options()).unwrap();
    fill(views.connection());
    let query = Query { session: Some(session(1)), id: Some("t4".into()), ..Query::of(Of::Tasks) };
    let page = query::find(views.connection(), &query).unwrap();
    let row = page.rows[0].as_str();
    assert!(row.contains(r#""payload":{"n":4.0}"#), "{row}");
    assert!(row.contains(r#""title":"title \"4\"""#), "{row}");
    assert!(row.contains(r#""result":[1]"#) && row.contains(r#""lease":null"#), "{row}");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let views = ViewsDb::open(&dir.path().join("views.db"), options()).unwrap();
    fill(views.connection());
    let tasks = Query { limit: Some(3), ..Query::of(Of::Tasks) };
    let cursor = query::find(views.connection(), &tasks).unwrap().next.unwrap();
    for (what, query) in [
        ("no status", Query { status: Some("x".into()), ..Query::of(Of::Memory) }),
        ("no agent", Query { agent: Some("x".into()), ..Query::of(Of::Sessions) }),
        ("no priority", Query { order: Order::Priority, ..Query::of(Of::Agents) }),
        ("id alone", Query { id: Some("t1".into()), ..Query::of(Of::Tasks) }),
        ("events without a session", Query::of(Of::Events)),
        ("limit 0", Query { limit: Some(0), ..Query::of(Of::Tasks) }),
        ("limit 1001", Query { limit: Some(1001), ..Query::of(Of::Tasks) }),
        ("cursor of another table", Query { cursor: Some(cursor.clone()), ..Query::of(Of::Messages) }),
        ("cursor of another order", Query { cursor: Some(cursor.clone()), order: Order::Newest, ..tasks.clone() }),
        ("cursor cut off", Query { cursor: Some(cursor[..cursor.len() - 2].into()), ..tasks.clone() }),
        ("cursor of nonsense", Query { cursor: Some("é".repeat(4)), ..tasks.clone() }),
        ("cursor of any length", Query { cursor: Some("00".repeat(100_000)), ..tasks.clone() }),
    ] {
        let refused = query::find(views.connection(), &query);
        assert!(matches!(refused, Err(swarmkeep_sqlite::SqliteError::Refused(_))), "{what}: {refused:?}");
    }
    let next = Query { cursor: Some(cursor), limit: Some(1000), ..tasks };
    assert_eq!(query::find(views.connection(), &next).unwrap().rows.len(), 12 * 20 - 3);
}
