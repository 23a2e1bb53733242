//! One watch for ever: asks, hears, waits, asks again.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use kube::{Client, client::Body};
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{
    backoff::Backoff,
    decode::{self, Status},
    failure::Failure,
    gather::{Definitions, News, Told},
    resource::{Ask, Listing, Resource},
    tracker::{Step, Tracker},
    watches::Watches,
};
use crate::{causes::chain, clock};

/// Of one page: 500 of the largest objects that etcd takes are more, but nobody has them.
const PAGE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Of one event: etcd takes objects of 1.5 MB, which are longer as JSON.
const LINE_BYTES_MAX: usize = 32 * 1024 * 1024;
const STATUS_BYTES_MAX: usize = 64 * 1024;

/// For the next bytes of a watch. The server ends one after 290 s by itself and says something every minute, so
/// a connection that was silent for longer is dead.
const IDLE: Duration = Duration::from_secs(295);
/// For the head of an answer, a page, or the next bytes of a list.
const ANSWER: Duration = Duration::from_secs(30);
/// Before the next try, at first and at most.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Nobody takes what is told any more.
struct Unheard;

#[derive(Debug)]
pub(super) struct Watch {
    resource: &'static Resource,
    client: Opaque,
    tracker: Tracker,
    tell: mpsc::Sender<Told>,
    /// What was not told yet. The tracker knows of it already, so a question that is cut off must not lose it.
    owed: Vec<Step>,
    definition: Option<String>,
    defined: watch::Receiver<Definitions>,
    watches: Arc<Watches>,
    backoff: Backoff,
    /// Which of its versions is asked for.
    version: usize,
    listing: Listing,
    /// The server has said that it has no streamed lists.
    pages_only: bool,
    /// What is wrong was told.
    troubled: bool,
}

struct Opaque(Client);

impl std::fmt::Debug for Opaque {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Watch {
    pub(super) fn new(
        resource: &'static Resource,
        client: Client,
        tell: mpsc::Sender<Told>,
        defined: watch::Receiver<Definitions>,
        watches: Arc<Watches>,
    ) -> Self {
        Self {
            resource,
            client: Opaque(client),
            tracker: Tracker::new(),
            tell,
            owed: Vec::new(),
            definition: resource.definition(),
            defined,
            watches,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            version: 0,
            listing: Listing::Streamed,
            pages_only: false,
            troubled: false,
        }
    }

    /// Ends only when nobody takes what it tells.
    pub(super) async fn run(mut self) {
        while self.once().await.is_ok() {}
    }

    /// One question and all of its answer.
    async fn once(&mut self) -> Result<(), Unheard> {
        self.until_defined().await?;
        let mut defined = self.defined.clone();
        let definition = self.definition.clone();
        let heard = tokio::select! {
            // Biased: when the kind is gone, its answers count no more.
            biased;
            () = undefined(&mut defined, definition.as_deref()) => return Ok(()),
            heard = self.turn() => heard?,
        };
        match heard {
            Ok(()) => Ok(()),
            Err(failure) => self.fail(failure).await,
        }
    }

    /// Returns when the kind is there. While it is not, none of its objects is.
    async fn until_defined(&mut self) -> Result<(), Unheard> {
        let Some(definition) = self.definition.clone() else { return Ok(()) };
        loop {
            let there = is_defined(&self.defined.borrow_and_update(), &definition);
            match there {
                Some(true) => return Ok(()),
                Some(false) => {
                    let steps = self.tracker.clear();
                    self.owed.extend(steps);
                    self.well().await?;
                    self.pay(true).await?;
                }
                None => {}
            }
            self.defined.changed().await.map_err(|_| Unheard)?;
        }
    }

    async fn turn(&mut self) -> Result<Result<(), Failure>, Unheard> {
        let count = self.resource.versions.len();
        let version = self.resource.versions.get(self.version % count).copied().unwrap_or("v1");
        let ask = self.tracker.ask(self.listing);
        let paged = matches!(ask, Ask::Page { .. });
        let request = match self.resource.request(version, ask) {
            Ok(request) => request,
            Err(error) => return Ok(Err(Failure::Broken(chain(&error)))),
        };
        let body = match self.open(request).await {
            Ok(body) => body,
            Err(failure) => return Ok(Err(failure)),
        };
        if paged { self.page(body).await } else { self.listen(body).await }
    }

    async fn open(&self, request: http::Request<Vec<u8>>) -> Result<Body, Failure> {
        let sent = self.client.0.send(request.map(Body::from));
        let response = match time::timeout(ANSWER, sent).await {
            Err(_) => return Err(Failure::Silent(ANSWER)),
            Ok(Err(error)) => return Err(Failure::Broken(chain(&error))),
            Ok(Ok(response)) => response,
        };
        let code = response.status();
        if code == StatusCode::OK {
            return Ok(response.into_body());
        }
        let after = response.headers().get(http::header::RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), STATUS_BYTES_MAX).collect();
        let text = match time::timeout(ANSWER, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => hyper::body::Bytes::new(),
        };
        // A proxy on the way answers in its own words.
        let said: Status = serde_json::from_slice(&text).unwrap_or_default();
        let status = Status { code: code.as_u16(), ..said };
        Err(Failure::Refused(status, after.map(Duration::from_secs)))
    }

    async fn page(&mut self, body: Body) -> Result<Result<(), Failure>, Unheard> {
        let body = Limited::new(body, PAGE_BYTES_MAX).collect();
        let text = match time::timeout(ANSWER, body).await {
            Err(_) => return Ok(Err(Failure::Silent(ANSWER))),
            Ok(Err(error)) => return Ok(Err(Failure::Broken(chain(&*error)))),
            Ok(Ok(body)) => body.to_bytes(),
        };
        let page = match decode::page(self.resource, &text) {
            Ok(page) => page,
            Err(rubbish) => return Ok(Err(rubbish.into())),
        };
        let steps = self.tracker.page(page);
        self.owed.extend(steps);
        self.backoff.reset();
        self.well().await?;
        if self.tracker.is_whole() {
            self.pay(true).await?;
        }
        Ok(Ok(()))
    }

    async fn listen(&mut self, mut body: Body) -> Result<Result<(), Failure>, Unheard> {
        if self.tracker.is_whole() {
            // Nothing need change for a minute; that the watch is open says that all is well.
            self.well().await?;
        }
        let mut pending: Vec<u8> = Vec::new();
        let mut empty = true;
        loop {
            let listing = !self.tracker.is_whole();
            let patience = if listing { ANSWER } else { IDLE };
            let frame = match time::timeout(patience, body.frame()).await {
                Err(_) => return Ok(Err(Failure::Silent(patience))),
                Ok(Some(Err(error))) => return Ok(Err(Failure::Broken(chain(&error)))),
                Ok(None) if listing => return Ok(Err(Failure::Unfinished)),
                Ok(None) if empty => return Ok(Err(Failure::Empty)),
                Ok(None) => return Ok(Ok(())),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            pending.extend_from_slice(&data);
            let end = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            if pending.len() - end > LINE_BYTES_MAX {
                return Ok(Err(Failure::Endless(pending.len() - end)));
            }
            if end == 0 {
                continue;
            }
            let lines: Vec<u8> = pending.drain(..end).collect();
            let (steps, result) = self.lines(&lines);
            self.owed.extend(steps);
            if result.is_ok() {
                self.backoff.reset();
                self.well().await?;
            }
            self.pay(listing && self.tracker.is_whole()).await?;
            if let Err(failure) = result {
                return Ok(Err(failure));
            }
            empty = false;
        }
    }

    fn lines(&mut self, lines: &[u8]) -> (Vec<Step>, Result<(), Failure>) {
        let mut steps = Vec::new();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match decode::line(self.resource, line).map(|event| self.tracker.event(event)) {
                Ok(Ok(more)) => steps.extend(more),
                Ok(Err(status)) => return (steps, Err(Failure::Refused(status, None))),
                Err(rubbish) => return (steps, Err(rubbish.into())),
            }
        }
        (steps, Ok(()))
    }

    /// The server answers: what was wrong is over.
    async fn well(&mut self) -> Result<(), Unheard> {
        if self.tracker.is_whole() && !self.pages_only {
            self.listing = Listing::Streamed;
        }
        self.watches.heard(self.resource.plural, self.tracker.len(), clock::instant());
        if self.troubled {
            let place = self.tell.reserve().await.map_err(|_| Unheard)?;
            self.troubled = false;
            place.send(Told { resource: self.resource, news: News::Well });
        }
        Ok(())
    }

    /// Tells what is owed. Cancel safe: what is not told now is told with what comes next.
    async fn pay(&mut self, whole: bool) -> Result<(), Unheard> {
        if self.owed.is_empty() && !whole {
            return Ok(());
        }
        let place = self.tell.reserve().await.map_err(|_| Unheard)?;
        let owed = std::mem::take(&mut self.owed);
        let news = if whole { News::Whole(owed) } else { News::Changed(owed) };
        place.send(Told { resource: self.resource, news });
        Ok(())
    }

    /// What a failure means for the next question, and when it is asked.
    async fn fail(&mut self, failure: Failure) -> Result<(), Unheard> {
        self.watches.failed(self.resource.plural);
        let mut least = Duration::ZERO;
        match &failure {
            // What is forgotten or cannot be read is not asked for again from the same place.
            Failure::Refused(Status { code: 410, .. }, _)
            | Failure::Rubbish(_)
            | Failure::Endless(_) => self.tracker.lost(),
            Failure::Refused(Status { code: 400 | 422, .. }, _)
                if self.listing == Listing::Streamed && !self.tracker.is_whole() =>
            {
                (self.listing, self.pages_only) = (Listing::Paged, true);
                return Ok(());
            }
            Failure::Refused(Status { code: 404, .. }, _) => {
                self.version += 1;
                if !self.version.is_multiple_of(self.resource.versions.len()) {
                    return Ok(());
                }
            }
            // Whoever is on the way may say anything.
            Failure::Refused(_, after) => least = after.unwrap_or_default().min(LONGEST_WAIT),
            // Perhaps it does not know what was asked for, and shows only what comes after.
            Failure::Silent(_) | Failure::Unfinished if !self.tracker.is_whole() => {
                self.listing = Listing::Paged;
            }
            Failure::Broken(_) | Failure::Silent(_) | Failure::Empty | Failure::Unfinished => {}
        }
        if !matches!(&failure, Failure::Refused(Status { code: 410, .. }, _)) {
            self.troubled = true;
            let news = News::Trouble(failure.to_string());
            let told = Told { resource: self.resource, news };
            self.tell.send(told).await.map_err(|_| Unheard)?;
        }
        let wait = self.backoff.wait(rand::random()).max(least);
        tokio::select! {
            // Biased: what was not served may be now.
            biased;
            changed = self.defined.changed(), if self.definition.is_some() => {
                changed.map_err(|_| Unheard)?;
            }
            () = time::sleep(wait) => {}
        }
        Ok(())
    }
}

fn is_defined(definitions: &Definitions, name: &str) -> Option<bool> {
    definitions.as_ref().map(|all| all.contains(name))
}

async fn undefined(defined: &mut watch::Receiver<Definitions>, name: Option<&str>) {
    let Some(name) = name else { return std::future::pending().await };
    let gone = |definitions: &Definitions| is_defined(definitions, name) == Some(false);
    if defined.wait_for(gone).await.is_err() {
        // Nobody defines any more; whoever tells will notice.
        std::future::pending::<()>().await;
    }
}
