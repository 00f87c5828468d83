//! `watch`, `exec-watch`: changes of a key, or of all below it.

use std::process::Stdio;

use super::super::args::{Flag, switch, value};
use super::super::emit;
use super::keys::path_of;
use super::node::Response;
use super::{Context, End};

pub const WATCH: &[Flag] = &[
    switch("forever", "go on after the first change (-f)"),
    value("after-index", "changes after this index, not only new ones"),
    switch("recursive", "of all below the key too (-r)"),
];
pub const EXEC_WATCH: &[Flag] = &[
    value("after-index", "changes after this index, not only new ones"),
    switch("recursive", "of all below the key too (-r)"),
];

/// A key whose changes are read one by one, each once.
struct Watcher<'a> {
    context: &'a Context,
    path: String,
    recursive: bool,
    /// The index to wait for; none means the next change.
    next_index: Option<u64>,
}

impl<'a> Watcher<'a> {
    fn new(context: &'a Context, key: &str) -> Result<Self, End> {
        let after = context.number("after-index")?;
        let next_index = u64::try_from(after).ok().filter(|index| *index > 0).map(|index| index + 1);
        let recursive = context.args.is_on("recursive");
        Ok(Self { context, path: path_of(key), recursive, next_index })
    }

    async fn next(&mut self) -> Result<Response, End> {
        loop {
            let index = self.next_index.map_or(String::new(), |index| format!("&waitIndex={index}"));
            let path = format!("{}?recursive={}&wait=true{index}", self.path, self.recursive);
            let answer = self.context.remote.wait(&path).await.map_err(|refusal| refusal.end())?;
            // A member that goes away ends a wait without a word.
            if answer.body.is_empty() {
                tokio::time::sleep(self.context.remote.timeout()).await;
                continue;
            }
            let response = Response::parse(&answer)?;
            self.next_index = Some(response.node.modified_index + 1);
            return Ok(response);
        }
    }
}

pub async fn watch(context: &Context) -> Result<(), End> {
    let mut watcher = Watcher::new(context, context.key()?)?;
    loop {
        let response = watcher.next().await?;
        if response.node.dir {
            continue;
        }
        if watcher.recursive {
            emit(&format!("[{}] {}\n", response.action, response.node.key));
        }
        response.print(context.output);
        if !context.args.is_on("forever") {
            return Ok(());
        }
    }
}

pub async fn exec_watch(context: &Context) -> Result<(), End> {
    let [key, program, arguments @ ..] = context.args.rest.as_slice() else {
        return Err(End::args("key and command to exec required"));
    };
    let mut watcher = Watcher::new(context, key)?;
    loop {
        let response = watcher.next().await?;
        if response.node.dir {
            eprintln!("Ignored dir {} change", response.node.key);
            continue;
        }
        let started = tokio::process::Command::new(program)
            .args(arguments)
            .env("ETCD_WATCH_ACTION", &response.action)
            .env("ETCD_WATCH_MODIFIED_INDEX", response.node.modified_index.to_string())
            .env("ETCD_WATCH_KEY", &response.node.key)
            .env("ETCD_WATCH_VALUE", &response.node.value)
            .stdin(Stdio::null())
            .status()
            .await;
        // One after the other: the order of changes is what they tell.
        started.map_err(|error| End::plain(format!("{program}: {error}")))?;
    }
}
