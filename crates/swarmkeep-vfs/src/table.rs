//! The tables of C functions that SQLite calls: the unsafe part of this crate, and nothing else.
//!
//! What is relied on, and documented by SQLite: a `sqlite3_file` given to a method is one that `open` filled, and is not
//! used after its `close`; buffers are as long as the length beside them; one file is not used by two threads at once
//! (connections are serialised or used by one thread).
#![allow(unsafe_code, reason = "SQLite calls its files through C function pointers")]

use std::{
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rusqlite::ffi;

use crate::{Opened, Slot, locks};

/// What SQLite allocates for a file: its own part, then where ours is.
#[repr(C)]
struct Handle {
    base: ffi::sqlite3_file,
    opened: *mut Opened,
}

/// Longest path, in bytes.
const PATH_MAX: c_int = 1024;
const SECTOR: c_int = 4096;

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

pub(crate) fn register(slot: &'static Slot) -> io::Result<()> {
    let name = CString::new(slot.name.as_str())?;
    // SAFETY: all zeros is a valid value of this plain C struct; what SQLite needs is set below.
    let mut vfs: ffi::sqlite3_vfs = unsafe { std::mem::zeroed() };
    vfs.iVersion = 2;
    vfs.szOsFile = size_of::<Handle>() as c_int;
    vfs.mxPathname = PATH_MAX;
    vfs.zName = name.into_raw();
    vfs.pAppData = ptr::from_ref(slot).cast_mut().cast();
    vfs.xOpen = Some(open);
    vfs.xDelete = Some(delete);
    vfs.xAccess = Some(access);
    vfs.xFullPathname = Some(full_pathname);
    vfs.xRandomness = Some(randomness);
    vfs.xSleep = Some(sleep);
    vfs.xCurrentTimeInt64 = Some(current_time);
    vfs.xGetLastError = Some(last_error);
    // SAFETY: the struct and its name live as long as the program, as SQLite asks.
    let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(io::Error::other(format!("sqlite3_vfs_register: {code}"))) }
}

/// The slot of a VFS of ours.
fn slot(vfs: *mut ffi::sqlite3_vfs) -> &'static Slot {
    // SAFETY: `register` set this, to something that is never freed.
    unsafe { &*(*vfs).pAppData.cast::<Slot>() }
}

/// The open file behind one of SQLite's.
fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Opened {
    // SAFETY: `open` set this and `close` takes it; in between one thread at a time uses the file.
    unsafe { &mut *(*file.cast::<Handle>()).opened }
}

fn path<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: SQLite gives names that end in a zero and live as long as the call.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

/// Writes where SQLite wants an answer.
fn give<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, and SQLite's own.
        unsafe { to.write(value) };
    }
}

fn code(outcome: io::Result<()>, otherwise: c_int) -> c_int {
    match outcome {
        Ok(()) => ffi::SQLITE_OK,
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            ffi::SQLITE_FULL
        }
        Err(_) => otherwise,
    }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite allocated `szOsFile` bytes here. Without methods it does not call `close`.
    unsafe { (*file).pMethods = ptr::null() };
    if name.is_null() {
        // A temporary file: connections of the store keep those in memory.
        return ffi::SQLITE_CANTOPEN;
    }
    let (slot, path) = (slot(vfs), path(name));
    let make = || -> io::Result<Opened> {
        let files = slot.files()?;
        let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
        let journal = flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0;
        let sync_dir = create && journal && files.size(path)?.is_none();
        let opened = files.open(path, create)?;
        slot.open.fetch_add(1, Ordering::AcqRel);
        let read_only = flags & ffi::SQLITE_OPEN_READONLY != 0;
        Ok(Opened { slot, path: path.to_owned(), file: opened, lock: slot.locks.holder(path), read_only, sync_dir })
    };
    match make() {
        Ok(opened) => {
            give(out_flags, flags);
            // SAFETY: as above; the box is taken back by `close`.
            unsafe {
                (*file.cast::<Handle>()).opened = Box::into_raw(Box::new(opened));
                (*file).pMethods = &raw const METHODS;
            }
            ffi::SQLITE_OK
        }
        Err(_) => ffi::SQLITE_CANTOPEN,
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: made by `open`; SQLite closes a file once.
    drop(unsafe { Box::from_raw((*file.cast::<Handle>()).opened) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, bytes: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite's buffer of so many bytes.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes.max(0) as usize) };
    match opened(file).file.read_at(to, offset.cast_unsigned()) {
        Ok(count) if count == to.len() => ffi::SQLITE_OK,
        Ok(count) => {
            to.get_mut(count..).unwrap_or_default().fill(0);
            ffi::SQLITE_IOERR_SHORT_READ
        }
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, bytes: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite's buffer of so many bytes.
    let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes.max(0) as usize) };
    if opened(file).read_only {
        return ffi::SQLITE_READONLY;
    }
    code(opened(file).file.write_at(from, offset.cast_unsigned()), ffi::SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, bytes: i64) -> c_int {
    if opened(file).read_only {
        return ffi::SQLITE_READONLY;
    }
    code(opened(file).file.set_len(bytes.cast_unsigned()), ffi::SQLITE_IOERR_TRUNCATE)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    match opened(file).sync() {
        Ok(()) => ffi::SQLITE_OK,
        Err(_) => ffi::SQLITE_IOERR_FSYNC,
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    match opened(file).file.size() {
        Ok(bytes) => {
            give(size, bytes.cast_signed());
            ffi::SQLITE_OK
        }
        Err(_) => ffi::SQLITE_IOERR_FSTAT,
    }
}

fn busy(taken: bool) -> c_int {
    if taken { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    let opened = opened(file);
    if opened.read_only && level > ffi::SQLITE_LOCK_SHARED {
        return ffi::SQLITE_IOERR_LOCK;
    }
    busy(opened.lock.lock(level))
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    opened(file).lock.unlock(level);
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, reserved: *mut c_int) -> c_int {
    give(reserved, c_int::from(opened(file).lock.is_reserved()));
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, what: c_int, with: *mut c_void) -> c_int {
    if what == ffi::SQLITE_FCNTL_MMAP_SIZE {
        // Nothing is ever mapped; `PRAGMA mmap_size` asks, and wants to be told.
        give(with.cast::<i64>(), 0);
        return ffi::SQLITE_OK;
    }
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    SECTOR
}

unsafe extern "C" fn characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    // As the unix VFS says of every device.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    to: *mut *mut c_void,
) -> c_int {
    let index = usize::try_from(region).unwrap_or(0);
    let found = opened(file).lock.region(index, bytes.max(0) as usize, extend != 0);
    give(to, found.map_or(ptr::null_mut(), <*mut u64>::cast));
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    let lock = &mut opened(file).lock;
    let (first, count) = (usize::try_from(first).unwrap_or(0), usize::try_from(count).unwrap_or(0));
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        lock.shm_unlock(first, count);
        return ffi::SQLITE_OK;
    }
    busy(lock.shm_lock(first, count, flags & ffi::SQLITE_SHM_EXCLUSIVE != 0))
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    opened(file).lock.unmap();
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    let (slot, path) = (slot(vfs), path(name));
    let Ok(files) = slot.files() else { return ffi::SQLITE_IOERR_DELETE };
    match files.remove(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(_) => return ffi::SQLITE_IOERR_DELETE,
    }
    match path.parent().filter(|_| sync_dir != 0).map(|parent| files.sync_dir(parent)) {
        Some(Err(_)) => ffi::SQLITE_IOERR_DIR_FSYNC,
        _ => ffi::SQLITE_OK,
    }
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    answer: *mut c_int,
) -> c_int {
    match slot(vfs).files().and_then(|files| files.size(path(name))) {
        Ok(size) => {
            // As the unix VFS: an empty file is none, where the question is whether it exists.
            let there = size.is_some_and(|bytes| bytes > 0 || flags != ffi::SQLITE_ACCESS_EXISTS);
            give(answer, c_int::from(there));
            ffi::SQLITE_OK
        }
        Err(_) => ffi::SQLITE_IOERR_ACCESS,
    }
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    to: *mut c_char,
) -> c_int {
    // SAFETY: as in `path`.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if bytes.len() > usize::try_from(room).unwrap_or(0) {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: there is room for so many bytes, as was just compared, and the two do not overlap.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, bytes.len()) };
    ffi::SQLITE_OK
}

/// A counter: salts of write-ahead logs need not be secret here, only different.
static DRAWN: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);

unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, bytes: c_int, to: *mut c_char) -> c_int {
    // SAFETY: SQLite's buffer of so many bytes.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes.max(0) as usize) };
    for chunk in to.chunks_mut(8) {
        let next = DRAWN.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        chunk.iter_mut().zip(next.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
    bytes
}

unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    std::thread::park_timeout(Duration::from_micros(microseconds.max(0).cast_unsigned().into()));
    microseconds
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, to: *mut i64) -> c_int {
    // Milliseconds since noon in Greenwich on 24 November of 4714 BC; here always the same moment of 2026.
    give(to, 212_654_376_000_000);
    ffi::SQLITE_OK
}

unsafe extern "C" fn last_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}

const _: () = assert!(locks::NONE == ffi::SQLITE_LOCK_NONE);
