use proptest::prelude::*;

use super::{Edit, Envelope, Frame, Kind, Malformed, compose, scan};

fn one(text: &str) -> Envelope {
    Envelope::parse(text.to_owned()).unwrap()
}

#[test]
fn routing_fields_are_found_and_nothing_else_is_read() {
    let call = one(
        r#"{"jsonrpc":"2.0","id":"1","method":"tools/call","params":{"name":"pay","arguments":{"id":7,"method":"x"},"_meta":{"progressToken":0.5}}}"#,
    );
    assert_eq!(call.kind(), Kind::Request);
    assert_eq!(call.id(), Some(r#""1""#));
    assert_eq!(call.method(), Some("tools/call"));
    assert_eq!(call.name(), Some("pay"));
    assert_eq!(call.token(), Some("0.5"));
    assert_eq!(call.param("arguments"), Some(r#"{"id":7,"method":"x"}"#));
    assert!(!call.is_ambiguous() && !call.is_continuation() && !call.has_cursor());
}

#[test]
fn a_string_ends_where_it_ends_wherever_that_is() {
    for length in 0..40 {
        let text = format!("\"{}\"", "\u{e9}x".repeat(length));
        assert_eq!(scan::value_end(text.as_bytes(), 0).unwrap(), text.len());
        for at in 1..text.len() - 1 {
            for byte in 0..=255 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = byte;
                let end = scan::value_end(&bytes, 0);
                match byte {
                    b'"' => assert_eq!(end.unwrap(), at + 1),
                    0..0x20 => assert_eq!(end.unwrap_err().at, at),
                    b'\\' => assert!(end.is_err() || end.is_ok_and(|end| end == bytes.len())),
                    _ => assert_eq!(end.unwrap(), bytes.len()),
                }
            }
        }
    }
}

#[test]
fn only_what_is_rewritten_changes() {
    let text = r#" { "x" : 9223372036854775808, "\u0069d" : 1.0 , "method":"tools\/call","params":{"_meta":{"progressToken":"tok","a":1,"a":2},"big":1234567890123456789012345678901,"s":"\ud800"},"y":[1.0,1e400]} "#;
    let envelope = one(text);
    assert_eq!(envelope.id(), Some("1.0"));
    assert_eq!(envelope.method(), Some("tools/call"));
    assert_eq!(&envelope.edited(Edit::default())[..], text.as_bytes());
    let edited = envelope.edited(Edit { id: Some("42"), token: Some("7"), ..Edit::default() });
    let expected = text.replace(": 1.0 ,", ": 42 ,").replace(r#""tok""#, "7");
    assert_eq!(std::str::from_utf8(&edited).unwrap(), expected);
}

#[test]
fn ids_are_texts_not_values() {
    for id in ["1", "\"1\"", "1.0", "9223372036854775808", "-0", "null", "\"\\ud800\"", "\"\\u0031\""] {
        let envelope = one(&format!(r#"{{"id":{id},"method":"ping"}}"#));
        assert_eq!((envelope.kind(), envelope.id()), (Kind::Request, Some(id)));
    }
    for id in ["{}", "[]", "true"] {
        let refused = Envelope::parse(format!(r#"{{"id":{id},"method":"ping"}}"#)).unwrap_err();
        assert_eq!(refused.code(), -32600, "{id}");
    }
}

#[test]
fn keys_that_come_twice_are_rewritten_everywhere_and_make_a_message_ambiguous() {
    let envelope = one(r#"{"id":1,"id":2,"method":"tools/list"}"#);
    assert!(envelope.is_ambiguous());
    assert_eq!(envelope.id(), Some("2"));
    let edited = envelope.edited(Edit { id: Some("9"), ..Edit::default() });
    assert_eq!(&edited[..], br#"{"id":9,"id":9,"method":"tools/list"}"#);
    for ambiguous in [
        r#"{"id":1,"method":"tools/list","method":"tools/call"}"#,
        r#"{"id":1,"method":"tools/list","\u006dethod":"tools/call"}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"id":1,"method":"tools/call","params":{},"params":{}}"#,
        r#"{"id":1,"method":"tools/call","result":{}}"#,
        r#"{"id":1,"result":{},"error":{}}"#,
    ] {
        assert!(one(ambiguous).is_ambiguous(), "{ambiguous}");
    }
    assert!(!one(r#"{"id":1,"x":1,"x":2,"method":"tools/list","params":{"a":1,"a":2}}"#).is_ambiguous());
}

#[test]
fn answers_and_errors() {
    let result = one(r#"{"id":3,"result":{"name":"not a routing field","_meta":{"progressToken":1}}}"#);
    assert_eq!((result.kind(), result.name(), result.token()), (Kind::Result, None, None));
    let error =
        one(r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: \u004eo valid session ID provided"}}"#);
    assert_eq!((error.kind(), error.id()), (Kind::Error, None));
    assert_eq!(error.error(), Some((-32000, "Bad Request: No valid session ID provided".to_owned())));
    // As JSON-RPC 1.0 had it: a result beside an empty error is an error without a code, and ambiguous.
    assert!(one(r#"{"id":3,"result":1,"error":null}"#).is_ambiguous());
}

#[test]
fn cancellations_progress_and_subscriptions_name_requests() {
    let cancelled = one(r#"{"method":"notifications/cancelled","params":{"requestId":"a","reason":"r"}}"#);
    assert_eq!((cancelled.kind(), cancelled.target()), (Kind::Notification, Some("\"a\"")));
    assert_eq!(
        &cancelled.edited(Edit { target: Some("5"), ..Edit::default() })[..],
        br#"{"method":"notifications/cancelled","params":{"requestId":5,"reason":"r"}}"#
    );
    let progress = one(r#"{"method":"notifications/progress","params":{"progressToken":5,"progress":1}}"#);
    assert_eq!(progress.token(), Some("5"));
    let other = one(r#"{"method":"notifications/message","params":{"progressToken":5,"requestId":6}}"#);
    assert_eq!((other.token(), other.target()), (None, None));
    let event = r#"{"method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":12}}}"#;
    assert_eq!(one(event).subscription(), Some("12"));
    let end = r#"{"id":12,"result":{"_meta":{"io.modelcontextprotocol/subscriptionId":12}}}"#;
    let end = one(end).edited(Edit { id: Some("\"c\""), subscription: Some("\"c\""), ..Edit::default() });
    assert_eq!(&end[..], br#"{"id":"c","result":{"_meta":{"io.modelcontextprotocol/subscriptionId":"c"}}}"#);
}

#[test]
fn what_carries_on_and_what_turns_pages() {
    assert!(one(r#"{"id":1,"method":"tools/call","params":{"name":"a","requestState":"s"}}"#).is_continuation());
    assert!(one(r#"{"id":1,"method":"tools/call","params":{"inputResponses":{}}}"#).is_continuation());
    assert!(one(r#"{"id":1,"method":"tools/list","params":{"cursor":"c"}}"#).has_cursor());
}

#[test]
fn what_is_no_message_says_why() {
    for (text, code) in [
        ("", -32700),
        ("listening on port 3000", -32700),
        ("{\"id\":1,", -32700),
        ("{\"id\":01,\"method\":\"a\"}", -32700),
        ("{\"id\":1,\"method\":\"a\",}", -32700),
        ("{\"id\":1,\"method\":\"a\"} x", -32700),
        ("{\"id\":1,\"method\":\"a\nb\"}", -32700),
        ("{\"id\":1,\"method\":\"\\x\"}", -32700),
        ("{\"id\":1,\"method\":\"\\u12\"}", -32700),
        ("{\"id\":+1,\"method\":\"a\"}", -32700),
        ("{\"id\":1.,\"method\":\"a\"}", -32700),
        ("{\"id\":NaN,\"method\":\"a\"}", -32700),
        ("nul", -32700),
        ("null", -32600),
        ("\"text\"", -32600),
        ("3", -32600),
        ("{}", -32600),
        ("{\"id\":1}", -32600),
        ("{\"id\":1,\"method\":5}", -32600),
        ("[]", -32600),
    ] {
        assert_eq!(Envelope::parse(text.to_owned()).unwrap_err().code(), code, "{text}");
    }
    assert_eq!(Envelope::parse(&b"{\"a\xff\":1}"[..]).unwrap_err(), Malformed::NotUtf8 { at: 3 });
}

#[test]
fn batches_are_taken_apart_with_their_bytes() {
    let Frame::Batch(parts) = Frame::parse(r#" [ {"id":1 ,"method":"a"} , 5,{"method":"b"}] "#).unwrap() else {
        panic!("a batch")
    };
    assert_eq!(&parts[0].as_ref().unwrap().bytes()[..], br#"{"id":1 ,"method":"a"}"#);
    assert_eq!(parts[1].as_ref().unwrap_err().code(), -32600);
    assert_eq!(parts[2].as_ref().unwrap().kind(), Kind::Notification);
    assert!(matches!(Envelope::parse(r#"[{"method":"b"}]"#), Err(Malformed::NotAMessage(_))));
}

#[test]
fn depth_costs_no_stack() {
    let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    let text = format!(r#"{{"id":1,"method":"a","params":{{"x":{deep}}}}}"#);
    assert_eq!(one(&text).bytes().len(), text.len());
    assert!(Envelope::parse("[".repeat(1_000_000)).is_err());
}

#[test]
fn half_pairs_never_pass_for_a_known_name() {
    assert_eq!(scan::decoded(br"a\ud83d\ude00b\n\/"), "a\u{1f600}b\n/");
    assert_eq!(scan::decoded(br"\ud83dx\ude00"), "\u{fffd}x\u{fffd}");
    assert!(scan::is_key(br"\u0069\u0064", "id") && !scan::is_key(br"\u0069\ud800d", "id"));
}

#[test]
fn our_own_messages_are_messages() {
    let ours = Envelope::parse(compose::request("7", "tools/call", r#"{"name":"a\"b"}"#)).unwrap();
    assert_eq!((ours.id(), ours.name()), (Some("7"), Some("a\"b")));
    let error = Envelope::parse(compose::error("\"1\"", -32010, "upstream \"x\" offline", None)).unwrap();
    assert_eq!(error.error(), Some((-32010, "upstream \"x\" offline".to_owned())));
    assert_eq!(error.id(), Some("\"1\""));
}

/// JSON values as texts, as peers write them: odd numbers, escapes, half pairs, keys that come twice, space anywhere.
fn json() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1.0".to_owned()),
        Just("-0e+5".to_owned()),
        Just("9223372036854775808".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
        text(),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let space = "[ \t]{0,2}";
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..5), space)
                .prop_map(|(all, space)| format!("[{space}{}{space}]", all.join(&format!("{space},{space}")))),
            members(inner).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
    .boxed()
}

fn text() -> BoxedStrategy<String> {
    let piece = prop_oneof![
        Just("\\ud800".to_owned()),
        Just("\\\"".to_owned()),
        Just("\\\\".to_owned()),
        Just("\\u0069d".to_owned()),
        Just("id".to_owned()),
        Just("{[,:]}".to_owned()),
        "[a-zé\u{1f600} ]{0,4}",
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat())).boxed()
}

fn members(value: BoxedStrategy<String>) -> BoxedStrategy<Vec<String>> {
    let key = prop_oneof![text(), Just("\"a\"".to_owned()), Just("\"x-id\"".to_owned())];
    prop::collection::vec((key, "[ \t]{0,2}", value), 0..5)
        .prop_map(|all| all.into_iter().map(|(key, space, value)| format!("{key}{space}:{space}{value}")).collect())
        .boxed()
}

fn is_routing(member: &str) -> bool {
    let key = &member[1..];
    let end = key.find("\"").unwrap_or(key.len());
    ["id", "method", "params", "result", "error", "\\u0069d"].contains(&&key[..end])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_edit_is_undone_by_the_edit_back(
        before in members(json()), after in members(json()), params in members(json()),
        id in prop_oneof![Just("1"), Just("\"1\""), Just("1.0"), Just("null"), Just("18446744073709551616")],
        token in prop_oneof![Just("\"tok\""), Just("0"), Just("1e3")],
        ours in 0u64..,
    ) {
        let outside = |all: Vec<String>| all.into_iter().filter(|member| !is_routing(member)).collect::<Vec<_>>();
        let inside: Vec<String> = params.into_iter().filter(|member| !member.contains("_meta")).collect();
        let meta = format!(r#""_meta":{{"progressToken":{token},"q":1.0}}"#);
        let params = [vec![r#""name":"pay""#.to_owned(), meta], inside].concat();
        let routing = vec![format!(r#""id":{id}"#), r#""method":"tools/call""#.to_owned(), format!(r#""params":{{{}}}"#, params.join(" , "))];
        let text = format!("{{{}}}", [outside(before), routing, outside(after)].concat().join(", "));

        let envelope = Envelope::parse(text.clone()).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        prop_assert_eq!(envelope.id(), Some(id));
        prop_assert_eq!(envelope.token(), Some(token));
        let ours = ours.to_string();
        let sent = envelope.edited(Edit { id: Some(&ours), token: Some("77777777"), ..Edit::default() });
        let arrived = Envelope::parse(sent.clone()).unwrap();
        prop_assert_eq!(arrived.id(), Some(ours.as_str()));
        prop_assert_eq!(sent.len(), text.len() - id.len() + ours.len() - token.len() + 8);
        let back = arrived.edited(Edit { id: Some(id), token: Some(token), ..Edit::default() });
        prop_assert_eq!(std::str::from_utf8(&back).unwrap(), text);
    }

    /// We take for JSON what serde_json takes for it, and nothing else.
    #[test]
    fn the_grammar_is_that_of_others(text in json(), cut in any::<prop::sample::Index>(), byte in any::<u8>(), harm in any::<bool>()) {
        let mut bytes = text.into_bytes();
        if harm && !bytes.is_empty() {
            let at = cut.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let from = scan::space(&bytes, 0);
            let ours = scan::value_end(&bytes, from).is_ok_and(|end| scan::space(&bytes, end) == bytes.len());
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Frame::parse(bytes);
    }
}
