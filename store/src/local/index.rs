//! The index file: opened for reading first, for writing by the first commit, and never trusted.
//!
//! Knows redb's modes and failures; unaware of what the rows mean. A panic in redb is an error here.

use std::cell::Cell;
use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{Builder, ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable};

use super::backend::Faulty;
use super::change::Change;
use super::fault::Faults;
use super::layout::Layout;
use super::locks;
use super::tables::{COMMITS, META};
use super::view::View;
use crate::counters::Counting;
use crate::error::{OpenError, StoreError};
use crate::stamp::{Stamp, now_ns};

/// An open database. Dropping one that is damaged may panic inside, which ends here.
pub(crate) struct Handle(Option<Open>);

enum Open {
    Reader(ReadOnlyDatabase),
    Writer(Database),
}

impl Drop for Handle {
    fn drop(&mut self) {
        let open = self.0.take();
        let _ = catch_quietly(|| drop(open));
    }
}

/// The index file. Opened for reading first, and for writing by the first commit.
pub(crate) struct Index {
    layout: Layout,
    file: PathBuf,
    cache_bytes: usize,
    faults: Faults,
    counting: Arc<Counting>,
    handle: RwLock<Option<Arc<Handle>>>,
    /// Whether a view may outlive its question.
    keeps: AtomicBool,
    kept: Mutex<Option<Kept>>,
}

/// A view that serves for more than one question, as long as nobody commits.
struct Kept {
    view: Arc<View>,
    /// The file as it looked before the view was made, its times settled: whoever writes to it changes them.
    stamp: Stamp,
    was_used: bool,
}

thread_local! {
    static GUARDED: Cell<u32> = const { Cell::new(0) };
}

/// Whether a panic on this thread, now, is one that the store turns into an error: a program's panic hook
/// has nothing to say then.
pub fn is_guarded() -> bool {
    GUARDED.get() > 0
}

fn catch_quietly<T>(run: impl FnOnce() -> T) -> std::thread::Result<T> {
    GUARDED.set(GUARDED.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(GUARDED.get() - 1);
    done
}

/// Runs redb code: its errors, and its panics, are ours.
pub(crate) fn guarded<T>(path: &Path, run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    let why = match catch_quietly(run) {
        Ok(Ok(value)) => return Ok(value),
        // A page that is not there is damage; everything else the file system says is not redb's to judge.
        Ok(Err(redb::Error::Io(e))) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
            format!("it is damaged: {e}")
        }
        Ok(Err(redb::Error::Io(source))) => return Err(StoreError::io(path, source)),
        Ok(Err(e)) => e.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            format!("it is damaged: {text}")
        }
    };
    Err(StoreError::Index { path: path.to_owned(), why })
}

impl Index {
    /// The index in `file`: the store's own, or one that is to take its place.
    pub(crate) fn new(
        layout: Layout,
        file: PathBuf,
        cache_bytes: usize,
        faults: Faults,
        counting: Arc<Counting>,
    ) -> Self {
        Self {
            layout,
            file,
            cache_bytes,
            faults,
            counting,
            handle: RwLock::new(None),
            keeps: AtomicBool::new(false),
            kept: Mutex::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.file.clone()
    }

    fn builder(&self) -> Builder {
        let mut builder = Database::builder();
        builder.set_concurrency_mode(ConcurrencyMode::MultiWriter).set_cache_size(self.cache_bytes);
        builder
    }

    fn held(&self) -> Option<Arc<Handle>> {
        self.handle.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Opens what there is, and looks at the pages everything hangs on; `false` when there is no index yet.
    pub(crate) fn open(&self) -> Result<bool, OpenError> {
        let looked = self.view().and_then(|view| view.map(|view| view.commits()).transpose());
        looked.map(|commits| commits.is_some()).map_err(|e| match e {
            StoreError::Io { path, source } => OpenError::Io { path, source },
            StoreError::Index { path, why } => OpenError::Index { path, why },
            other => OpenError::Index { path: self.path(), why: other.to_string() },
        })
    }

    fn reader(&self) -> Result<Option<Arc<Handle>>, StoreError> {
        if let Some(handle) = self.held() {
            return Ok(Some(handle));
        }
        let path = self.path();
        match fs::metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io(&path, e)),
            Ok(_) => {}
        }
        let mut slot = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*slot {
            return Ok(Some(handle.clone()));
        }
        let open = || {
            guarded(&path, || match self.builder().open_read_only(&path) {
                Ok(database) => Ok(Some(Open::Reader(database))),
                Err(DatabaseError::RepairAborted) => Ok(None),
                Err(e) => Err(e.into()),
            })
        };
        let open = open().or_else(|_| {
            // Perhaps it is just being made. Who makes it holds this lock meanwhile.
            let _made = fs::File::open(self.layout.create_lock()).and_then(|f| f.lock_shared().map(|()| f));
            open()
        })?;
        // A killed writer leaves a flag behind that only another writer may clear.
        let open = match open {
            Some(open) => open,
            None => Open::Writer(self.open_writer()?),
        };
        let handle = Arc::new(Handle(Some(open)));
        *slot = Some(handle.clone());
        Ok(Some(handle))
    }

    fn open_writer(&self) -> Result<Database, StoreError> {
        let path = self.path();
        self.counting.writer_opens.fetch_add(1, Relaxed);
        let _creating = locks::exclude(&self.layout.create_lock()).map_err(|e| StoreError::io(&path, e))?;
        if !path.exists() {
            // Made beside and moved here whole: one that is half made is in nobody's way.
            let temp = self.layout.new_index();
            let _ = fs::remove_file(&temp);
            if self.layout.glances().exists() {
                self.tell_rewritten().map_err(|e| StoreError::io(&path, e))?;
            }
            let made = self.open_file(&temp, &path).and_then(|database| {
                guarded(&temp, || Ok(database.close()?))?;
                let moved = self.faults.check("rename").and_then(|()| fs::rename(&temp, &path));
                let synced = moved.and_then(|()| fs::File::open(self.layout.dir())?.sync_all());
                synced.map_err(|e| StoreError::io(&path, e))
            });
            let _ = fs::remove_file(&temp);
            made?;
        }
        self.open_file(&path, &path)
    }

    fn open_file(&self, path: &Path, shown: &Path) -> Result<Database, StoreError> {
        let file = self
            .faults
            .check("open index")
            .and_then(|()| fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path));
        let file = file.map_err(|e| StoreError::io(shown, e))?;
        guarded(shown, || {
            let backend = Faulty::new(FileBackend::new(file)?, self.faults.clone());
            Ok(self.builder().create_with_backend(backend)?)
        })
    }

    /// The index, writable; made when there is none.
    fn writer(&self) -> Result<Arc<Handle>, StoreError> {
        if let Some(handle) = self.held()
            && matches!(handle.0, Some(Open::Writer(_)))
        {
            return Ok(handle);
        }
        let mut slot = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        let handle = Arc::new(Handle(Some(Open::Writer(self.open_writer()?))));
        *slot = Some(handle.clone());
        Ok(handle)
    }

    /// Lets go of the file. After a failed write redb wants to be opened again.
    pub(crate) fn close(&self) {
        *self.kept() = None;
        *self.handle.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A consistent view of what is committed; `None` when nothing ever was.
    pub(crate) fn view(&self) -> Result<Option<View>, StoreError> {
        let Some(handle) = self.reader()? else { return Ok(None) };
        self.counting.reads.fetch_add(1, Relaxed);
        let path = self.path();
        let txn = guarded(&path, || {
            Ok(match handle.0.as_ref().expect("taken by drop only") {
                Open::Reader(database) => database.begin_read()?,
                Open::Writer(database) => database.begin_read()?,
            })
        })?;
        Ok(Some(View::new(path, txn, handle)))
    }

    /// What is committed by now, by whomever; and whether this is the first of several times that it is given.
    ///
    /// A read transaction is ten system calls and a walk to each table; to see that nobody has written to the file since is one.
    pub(crate) fn current(&self) -> Result<(Option<Arc<View>>, bool), StoreError> {
        if !self.keeps.load(Relaxed) {
            return Ok((self.view()?.map(Arc::new), false));
        }
        // Before the view is made: what is committed in between makes it look different.
        let looked_ns = now_ns();
        let stamp = rustix::fs::stat(&self.file).ok().map(|stat| Stamp::of(&stat));
        let mut kept = self.kept();
        if let Some(kept) = kept.as_mut().filter(|kept| Some(kept.stamp) == stamp) {
            kept.was_used = true;
            return Ok((Some(kept.view.clone()), false));
        }
        *kept = None;
        drop(kept);
        let Some(view) = self.view()?.map(Arc::new) else { return Ok((None, false)) };
        let Some(stamp) = stamp.filter(|stamp| stamp.is_settled(looked_ns)) else { return Ok((Some(view), false)) };
        *self.kept() = Some(Kept { view: view.clone(), stamp, was_used: true });
        Ok((Some(view), true))
    }

    /// The view that is kept, if one is, whatever was committed since.
    pub(crate) fn kept_view(&self) -> Option<Arc<View>> {
        self.kept().as_ref().map(|kept| kept.view.clone())
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on somebody calls [`Index::let_go`] from time to time, as long as a view is kept: what a view sees, no writer
    /// may use again.
    pub(crate) fn keep_views(&self) {
        self.keeps.store(true, Relaxed);
    }

    /// Lets go of a view that nobody has asked for since this was last called.
    pub(crate) fn let_go(&self) {
        let mut kept = self.kept();
        *kept = kept.take().filter(|kept| kept.was_used).map(|kept| Kept { was_used: false, ..kept });
    }

    pub(crate) fn keeps_view(&self) -> bool {
        self.kept().is_some()
    }

    /// One durable transaction.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&Change<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        *self.kept() = None;
        let handle = self.writer()?;
        let done = guarded(&self.path(), || {
            let Some(Open::Writer(database)) = &handle.0 else { unreachable!("opened for writing above") };
            let txn = database.begin_write()?;
            let value = {
                let mut meta = txn.open_table(META)?;
                let commits = meta.get(COMMITS)?.map_or(0, |n| n.value());
                meta.insert(COMMITS, commits + 1)?;
                drop(meta);
                let rewriting = Change::new(&txn);
                let value = change(&rewriting)?;
                if rewriting.rewrites() {
                    self.tell_rewritten()?;
                }
                value
            };
            txn.commit()?;
            Ok(value)
        });
        if done.is_err() {
            drop(handle);
            self.close();
        } else {
            self.counting.commits.fetch_add(1, Relaxed);
        }
        done
    }

    /// Sees to it that whoever looks at the store from outside notices. Before the change can be seen, and durable before it is.
    fn tell_rewritten(&self) -> std::io::Result<()> {
        self.faults.check("rename")?;
        let temp = self.layout.tmp().join(format!("rewritten-{}", std::process::id()));
        fs::File::create(&temp)?.sync_all()?;
        fs::rename(&temp, self.layout.rewritten())?;
        fs::File::open(self.layout.dir())?.sync_all()
    }

    /// Gives back the space that forgotten rows left. Where somebody reads meanwhile it is left for another time.
    pub(crate) fn compact(&self) -> Result<(), StoreError> {
        self.close();
        let mut handle = Handle(Some(Open::Writer(self.open_writer()?)));
        guarded(&self.path(), || {
            let Some(Open::Writer(database)) = &mut handle.0 else { unreachable!("opened for writing above") };
            // A collection that found nobody at work may still meet a reader.
            let _ = database.compact();
            Ok(())
        })
    }

    /// Checks redb's own structure, page by page.
    pub(crate) fn check_integrity(&self) -> Result<bool, StoreError> {
        self.close();
        let mut handle = Handle(Some(Open::Writer(self.open_writer()?)));
        guarded(&self.path(), || {
            let Some(Open::Writer(database)) = &mut handle.0 else { unreachable!("opened for writing above") };
            Ok(database.check_integrity()?)
        })
    }
}
