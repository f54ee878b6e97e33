//! Sessions' ids, as reports have them, turned into the names that people gave: wherever the store knows the name.

use std::collections::BTreeMap;

use serde_json::Value;
pub(crate) use swarmkeep_server::reading::Names;
use swarmkeep_server::reading::ids;

use crate::{
    client::{Call, Client},
    verb::{entries, path, text},
};

/// Those of every id in `said`, as the daemon knows them. What it cannot tell stays an id.
pub(crate) async fn ask(client: &mut Client, said: &Value) -> Names {
    let mut names = BTreeMap::new();
    for id in ids(said) {
        let call = Call::get(format!("/v1/query/sessions?session={id}&limit=1"));
        let Ok(answer) = client.call(&call).await else { break };
        let Ok(page) = answer.json::<Value>() else { continue };
        if let Some(row) = entries(&page, "rows").first() {
            names.insert(id, format!("{}/{}", text(row, "namespace"), text(row, "name")));
            continue;
        }
        // The views may have nothing of one that is damaged; what is left of it says its name.
        let Ok(answer) = client.call(&Call::get(path(&id, ""))).await else { break };
        if answer.status == 200
            && let Ok(session) = answer.json::<Value>()
            && !text(&session, "name").is_empty()
        {
            names.insert(id, text(&session, "name").to_owned());
        }
    }
    Names::new(names)
}

/// The same from records.db itself, for a store that this process holds, or nobody.
pub(crate) fn look(folder: &std::path::Path, said: &Value) -> Names {
    let ids: Vec<_> = ids(said).iter().filter_map(|id| id.parse().ok()).collect();
    if ids.is_empty() {
        return Names::default();
    }
    // What cannot be read has worse to say than names.
    let found = swarmkeep::upkeep::session_names(folder, &ids).unwrap_or_default();
    Names::new(found.into_iter().map(|(id, name)| (id.to_string(), name.to_string())).collect())
}
