//! The core's rows in a redb file: load all, commit a batch durably, copy, shrink.
//!
//! One commit is one redb transaction with `Durability::Immediate`: when [`Disk::commit`] returns, the rows
//! have been synced. redb writes pages aside and flips between two commit slots, each checksummed, so after
//! a crash the file holds exactly the last commit that was synced, or one that was about to be.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
};
use thiserror::Error;

use crate::config::OpenError;
use crate::mvcc::{Core, Identity, Row, Table, Write};

const DATA_FILE: &str = "store.redb";
const NEW_DATA_FILE: &str = "store.redb.new";
const LOCK_FILE: &str = "LOCK";
/// Files that hold a snapshot while it is sent. None outlives its process on purpose.
pub(crate) const SNAPSHOT_PREFIX: &str = "snapshot-";

/// redb's page cache. Small: the core holds all values itself, and only commits go through here.
const CACHE_BYTES: usize = 8 << 20;

const TABLES: [Table; 3] = [Table::Meta, Table::Leases, Table::Revisions];

type RowTable = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// A write that did not become durable, as far as is known.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct DiskError(redb::Error);

impl<E: Into<redb::Error>> From<E> for DiskError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Holds the directory for this process while it lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(crate) fn acquire(dir: &Path) -> Result<Self, OpenError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { path, source }
        };
        // The data are for their owner alone. A directory that is there keeps its mode.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail(dir))?;
        let path = dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The name is a courtesy: what cannot be read is unknown.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() { "unknown" } else { holder };
                return Err(OpenError::InUse { path: dir.to_owned(), holder: holder.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(OpenError::Directory { path, source }),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(fail(&path))?;
        writeln!(file, "{}", std::process::id()).map_err(fail(&path))?;
        Ok(Self { _file: file })
    }
}

/// An open data file.
pub(crate) struct Disk {
    db: Database,
    path: PathBuf,
}

impl Disk {
    /// Opens the data file in `dir`, or makes one that belongs to `new`.
    pub(crate) fn open(dir: &Path, new: Identity) -> Result<Self, OpenError> {
        let path = dir.join(DATA_FILE);
        remove_snapshots(dir).map_err(|source| OpenError::Directory { path: dir.to_owned(), source })?;
        if !path.exists() {
            create(dir, &path, new)?;
        }
        // The whole file is read now in any case; checking every page's sum makes later surprises errors.
        let opened = catch_unwind(|| {
            Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(&path)
        });
        match opened {
            Ok(Ok(db)) => Ok(Self { db, path }),
            Ok(Err(error)) => Err(explain(&path, error.into())),
            Err(_) => {
                Err(OpenError::Corrupt { path, reason: "the database cannot make sense of it".to_owned() })
            }
        }
    }

    /// Brings the core back from the rows.
    pub(crate) fn load(&self, now: Duration) -> Result<Core, OpenError> {
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            let txn = self.db.begin_read()?;
            let mut failed = None;
            let mut tables = Vec::new();
            for table in TABLES {
                match txn.open_table(definition(table)) {
                    Ok(opened) => tables.push((table, opened)),
                    Err(redb::TableError::TableDoesNotExist(_)) => {}
                    Err(error) => return Err(DiskError::from(error)),
                }
            }
            let mut iters = Vec::new();
            for (table, opened) in &tables {
                iters.push((*table, opened.iter()?));
            }
            let rows = iters
                .into_iter()
                .flat_map(|(table, iter)| iter.map(move |row| (table, row)))
                .map_while(|(table, row)| match row {
                    Ok((key, value)) => {
                        Some(Row { table, key: key.value().to_vec(), value: value.value().to_vec() })
                    }
                    Err(error) => {
                        failed = Some(error);
                        None
                    }
                });
            let core = Core::open(rows, now);
            match failed {
                Some(error) => Err(error.into()),
                None => Ok(core),
            }
        }));
        match loaded {
            Ok(Ok(core)) => core.map_err(|source| OpenError::State { path: self.path.clone(), source }),
            Ok(Err(error)) => Err(explain(&self.path, error.0)),
            Err(_) => {
                let reason = "the database cannot make sense of it".to_owned();
                Err(OpenError::Corrupt { path: self.path.clone(), reason })
            }
        }
    }

    /// Writes rows in one transaction and returns when they are synced.
    pub(crate) fn commit(&self, writes: &[Write]) -> Result<(), DiskError> {
        commit(&self.db, writes)
    }

    /// A view of the rows that stays as it is while others are written.
    pub(crate) fn view(&self) -> Result<ReadTransaction, DiskError> {
        Ok(self.db.begin_read()?)
    }

    /// Gives pages that are not used back to the file system.
    pub(crate) fn shrink(&mut self) -> Result<(), DiskError> {
        self.db.compact()?;
        Ok(())
    }

    /// Size of the file, in bytes.
    pub(crate) fn file_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }
}

/// Writes what `view` sees into a new data file at `path`, which can be put in the place of another.
pub(crate) fn copy(view: &ReadTransaction, path: &Path) -> Result<(), DiskError> {
    /// Bytes in one transaction of the copy: bounds what it holds in memory.
    const COMMIT_BYTES: usize = 4 << 20;
    let db = new_database(path)?;
    for table in TABLES {
        let source = match view.open_table(definition(table)) {
            Ok(source) => source,
            Err(redb::TableError::TableDoesNotExist(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut writes = Vec::new();
        let mut bytes = 0;
        for row in source.iter()? {
            let (key, value) = row?;
            bytes += key.value().len() + value.value().len();
            writes.push(Write { table, key: key.value().to_vec(), value: Some(value.value().to_vec()) });
            if bytes >= COMMIT_BYTES {
                commit(&db, &writes)?;
                writes.clear();
                bytes = 0;
            }
        }
        commit(&db, &writes)?;
    }
    Ok(())
}

fn commit(db: &Database, writes: &[Write]) -> Result<(), DiskError> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    for table in TABLES {
        let mut rows = writes.iter().filter(|write| write.table == table).peekable();
        if rows.peek().is_none() {
            continue;
        }
        let mut opened = txn.open_table(definition(table))?;
        for write in rows {
            match &write.value {
                Some(value) => opened.insert(write.key.as_slice(), value.as_slice())?,
                None => opened.remove(write.key.as_slice())?,
            };
        }
    }
    txn.commit()?;
    Ok(())
}

/// Makes a data file under another name and gives it its own only when it is whole and durable, so that a
/// crash leaves either no store or a store.
fn create(dir: &Path, path: &Path, identity: Identity) -> Result<(), OpenError> {
    let fail = |source| OpenError::Directory { path: dir.to_owned(), source };
    let new = dir.join(NEW_DATA_FILE);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    new_database(&new)
        .and_then(|db| commit(&db, &Core::format(identity)))
        .map_err(|error| explain(&new, error.0))?;
    std::fs::rename(&new, path).map_err(fail)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)
}

/// A new data file, for its owner alone also where others may read the directory.
fn new_database(path: &Path) -> Result<Database, DiskError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(redb::Error::Io)?;
    Ok(Builder::new().set_cache_size(CACHE_BYTES).create(path)?)
}

fn remove_snapshots(dir: &Path) -> std::io::Result<()> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with(SNAPSHOT_PREFIX) {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

fn definition(table: Table) -> RowTable {
    TableDefinition::new(match table {
        Table::Revisions => "revisions",
        Table::Leases => "leases",
        Table::Meta => "meta",
    })
}

fn explain(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    let reason = error.to_string();
    match error {
        redb::Error::Io(io)
            if io.kind() != std::io::ErrorKind::InvalidData
                && io.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            OpenError::Io { path, reason }
        }
        redb::Error::DatabaseAlreadyOpen => OpenError::InUse { path, holder: "unknown".to_owned() },
        _ => OpenError::Corrupt { path, reason },
    }
}
