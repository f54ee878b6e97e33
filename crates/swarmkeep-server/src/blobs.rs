//! `…/blobs`: content too large for JSON, kept with a session and named by its hash.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Deserialize;
use swarmkeep::{
    Blob, BlobId, Json,
    core::{command::Command, limits},
};

use crate::{
    api::{Api, Content, Op},
    problem::Problem,
    wire::{Answer, Call, Envelope, answer_with},
};

pub(crate) fn routes(api: Api) -> Api {
    api.post(
        "/v1/sessions/{namespace}/{name}/blobs",
        put,
        Op::write("putBlob", "Keep the body's bytes; `id` is their BLAKE3")
            .takes(Content::Bytes)
            .answers(200, "BlobReply")
            .query(&[("label", "string", "A name for it in the record that introduces it; `content` by default")]),
    )
    .get(
        "/v1/sessions/{namespace}/{name}/blobs/{id}",
        get,
        Op::read("getBlob", "A blob's bytes, verified", Content::Bytes),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutQuery {
    label: Option<String>,
}

async fn put(mut call: Call) -> Answer {
    let PutQuery { label } = call.query()?;
    let label = label.unwrap_or_else(|| "content".to_owned());
    if label.is_empty() || label.len() > limits::ID_BYTES {
        return Err(Problem::invalid(format!("parameter `label`: use 1 to {} bytes", limits::ID_BYTES)));
    }
    let session = call.session().await?;
    let bytes = call.bytes(limits::BLOB_BYTES).await?;
    let envelope = Envelope::of(&call.parts.headers)?;
    let stated = envelope.if_match;
    // Hashing many bytes does not belong on the async threads.
    let blob = tokio::task::spawn_blocking(move || Blob::new(bytes))
        .await
        .map_err(|error| Problem::new("internal", format!("hashing the blob broke off: {error}")))?;
    let id = blob.id;
    let command = Command::Record {
        kind: "blob".into(),
        aggregate: None,
        payload: Json::null(),
        blobs: std::iter::once((label, id)).collect(),
    };
    let mut request = envelope.request(call.unnamed(), None, vec![command])?;
    request.blobs.push(blob);
    let reply = session.submit(request).await.map_err(|error| Problem::from(error).precondition(stated))?;
    Ok(answer_with(StatusCode::OK, &reply, &format!(",\"id\":\"{id}\"")))
}

async fn get(call: Call) -> Answer {
    let id: BlobId = call.id("id")?;
    let bytes = call.session().await?.blob(id).await?;
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // Somebody else's bytes: a browser must neither guess what they are nor show them as a page of ours.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{id}\"")) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}
