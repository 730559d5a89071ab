//! The network between a function and the database, which fails when somebody asks it to.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use tokio::sync::Notify;

use crate::embedded::Embedded;

const THROTTLED: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"throttled"}"#;
/// The operations that write.
const WRITES: [&str; 5] = ["BatchWriteItem", "DeleteItem", "PutItem", "TransactWriteItems", "UpdateItem"];

/// What is to go wrong between one function and the database.
#[derive(Default)]
pub struct Faults {
    planned: Mutex<Planned>,
    /// The function has to die now.
    dies: Notify,
}

/// What is to go wrong.
#[derive(Clone, Copy, Default)]
pub struct Planned {
    /// Until when every request is throttled.
    throttled_until: Option<Instant>,
    /// Whether the answer to the next write is lost.
    pub loses_an_answer: bool,
    /// Whether the function dies after its next write.
    pub dies: bool,
}

impl Planned {
    /// How much longer every request is throttled.
    pub fn throttled_for(&self) -> Option<Duration> {
        self.throttled_until?.checked_duration_since(Instant::now())
    }
}

impl Faults {
    /// What is to go wrong.
    pub fn planned(&self) -> Planned {
        *self.lock()
    }

    /// Throttles every request for this time.
    pub fn throttle(&self, time: Duration) {
        self.lock().throttled_until = Some(Instant::now() + time);
    }

    /// Loses the answer to the next write: it is applied, and the function does not learn of it.
    pub fn lose_an_answer(&self) {
        self.lock().loses_an_answer = true;
    }

    /// Ends the function after its next write, in the midst of its batch.
    pub fn die(&self) {
        self.lock().dies = true;
    }

    /// Resolves when the function has to die.
    pub async fn death(&self) {
        self.dies.notified().await;
    }

    /// A client whose requests pass through these faults.
    pub fn client(self: &Arc<Self>, embedded: &Embedded) -> aws_sdk_dynamodb::Client {
        embedded.client_with(|inner| Faulty { inner, faults: self.clone() })
    }

    /// What becomes of the answer to a write that was applied.
    fn after_a_write(&self) -> Answer {
        let mut planned = self.lock();
        if std::mem::take(&mut planned.dies) {
            Answer::NeverRead
        } else if std::mem::take(&mut planned.loses_an_answer) {
            Answer::Lost
        } else {
            Answer::Arrives
        }
    }

    fn lock(&self) -> MutexGuard<'_, Planned> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Answer {
    Arrives,
    Lost,
    /// Its reader is dead.
    NeverRead,
}

/// A connector that fails as planned.
struct Faulty {
    inner: SharedHttpConnector,
    faults: Arc<Faults>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

impl HttpConnector for Faulty {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        HttpConnectorFuture::new(async move {
            if faults.planned().throttled_for().is_some() {
                let status = StatusCode::try_from(400).map_err(|error| ConnectorError::other(Box::new(error), None))?;
                return Ok(HttpResponse::new(status, SdkBody::from(THROTTLED)));
            }
            let operation = request.headers().get("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or_default();
            let is_write = WRITES.contains(&operation);
            let answer = inner.call(request).await?;
            if !is_write || !answer.status().is_success() {
                return Ok(answer);
            }
            match faults.after_a_write() {
                Answer::Arrives => Ok(answer),
                Answer::Lost => Err(ConnectorError::timeout("the answer was lost".into())),
                Answer::NeverRead => {
                    faults.dies.notify_one();
                    std::future::pending().await
                }
            }
        })
    }
}
