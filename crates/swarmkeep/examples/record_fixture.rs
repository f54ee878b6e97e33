//! Records a small store, as a crash would have left it, for `fixtures/`: `record_fixture DIR`.
//!
//! The states are the same every time; the bytes around them are not, because the journal and the databases are written by
//! threads of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a tool for this repository"
)]

#[path = "../tests/small_store/mod.rs"]
mod small_store;

use std::{fs, path::PathBuf, sync::Arc};

use small_store::{Image, Reading, crashed_and_parked, open};

#[tokio::main]
async fn main() {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: record_fixture DIR");
        std::process::exit(2);
    };
    let (Image(mut files), _) = crashed_and_parked().await;
    // Segments made in advance have nothing in them.
    files.retain(|path, _| !path.starts_with("journal") || path.extension().is_some_and(|name| name == "segment"));

    let folder = tempfile::tempdir().unwrap();
    let image = Image(files);
    image.put(folder.path());
    let keep = open(folder.path(), &Arc::default()).await.unwrap();
    let reading = serde_json::to_string_pretty(&Reading::of(&keep).await).unwrap();
    keep.close().await.unwrap();

    let mut total = 0;
    for (path, bytes) in &image.0 {
        let path = dir.join("store").join(format!("{}.zst", path.display()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let packed = zstd::bulk::compress(bytes, 19).unwrap();
        total += packed.len();
        fs::write(path, packed).unwrap();
    }
    fs::write(dir.join("reading.json"), reading + "\n").unwrap();
    println!("{}: {} files, {total} bytes", dir.display(), image.0.len());
}
