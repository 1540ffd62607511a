//! Which member of the cluster is spoken to.

use std::{path::PathBuf, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use parking_lot::Mutex;

use super::convert;
use crate::CoordinationError;

/// etcd refuses clients that ping more often than every five seconds.
const PING: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// How to reach an etcd cluster.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `http://host:port` or `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// Name and password.
    pub user: Option<(String, String)>,
    pub tls: Option<EtcdTls>,
    /// Longest wait for one member's answer before the next is asked.
    pub timeout: Duration,
}

/// Files in PEM.
#[derive(Debug, Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates.
    pub ca: PathBuf,
    /// The client's own certificate and key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
pub(super) struct Connection {
    endpoints: Vec<String>,
    options: ConnectOptions,
    timeout: Duration,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// Counts the members left behind; the endpoint in use is this modulo their number.
    generation: usize,
    client: Option<Client>,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(options: EtcdOptions) -> Result<Self, CoordinationError> {
        if options.endpoints.is_empty() {
            return Err(CoordinationError::Refused { detail: "no endpoint of etcd is configured".into() });
        }
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(options.timeout)
            .with_keep_alive(PING, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            // A member without a leader ends its watches instead of falling silent.
            .with_require_leader(true);
        if let Some((name, password)) = options.user {
            connect = connect.with_user(name, password).with_auto_token_refresh(true);
        }
        if let Some(tls) = &options.tls {
            connect = connect.with_tls(read_tls(tls)?);
        }
        let current = Mutex::new(Current::default());
        Ok(Self { endpoints: options.endpoints, options: connect, timeout: options.timeout, current })
    }

    /// Asks the current member, and the next ones while they do not answer: every member once, a single one twice.
    pub(super) async fn call<T, F>(
        &self,
        kind: Kind,
        ask: impl Fn(Client) -> F + Send,
    ) -> Result<T, CoordinationError>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let failed = match self.ask(kind, ask).await {
            Err(CoordinationError::Unavailable { detail }) => detail,
            answered => return answered,
        };
        let detail = format!("{failed}; etcd is expected at {}", self.endpoints.join(", "));
        Err(CoordinationError::Unavailable { detail })
    }

    async fn ask<T, F>(&self, kind: Kind, ask: impl Fn(Client) -> F + Send) -> Result<T, CoordinationError>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let attempts = self.endpoints.len().max(2);
        let mut failed = CoordinationError::Unavailable { detail: "no member was asked".into() };
        for _ in 0..attempts {
            let (client, generation) = match self.client().await {
                Ok(client) => client,
                Err(error @ CoordinationError::Unavailable { .. }) => {
                    failed = error;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let may_repeat = match tokio::time::timeout(self.timeout, ask(client)).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    failed = convert::error(&error);
                    convert::never_sent(&error)
                }
                Err(_) => {
                    let detail = format!("no answer within {:?}", self.timeout);
                    failed = CoordinationError::Unavailable { detail };
                    false
                }
            };
            if !matches!(failed, CoordinationError::Unavailable { .. }) {
                return Err(failed);
            }
            self.leave(generation);
            if kind == Kind::Once && !may_repeat {
                break;
            }
        }
        Err(failed)
    }

    /// A client of the current member, with what [`Connection::leave`] has to be told.
    async fn client(&self) -> Result<(Client, usize), CoordinationError> {
        let generation = {
            let current = self.current.lock();
            if let Some(client) = &current.client {
                return Ok((client.clone(), current.generation));
            }
            current.generation
        };
        let endpoint = self.endpoints[generation % self.endpoints.len()].clone();
        // Logs in where a user is configured, so it can fail and can hang.
        let connecting = Client::connect([endpoint.as_str()], Some(self.options.clone()));
        let client = match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                self.leave(generation);
                return Err(convert::error(&error));
            }
            Err(_) => {
                self.leave(generation);
                let detail = format!("{endpoint} did not answer within {:?}", self.timeout);
                return Err(CoordinationError::Unavailable { detail });
            }
        };
        let mut current = self.current.lock();
        if current.generation == generation {
            current.client = Some(client.clone());
        }
        Ok((client, generation))
    }

    /// Goes on to the next member, unless that has happened since.
    fn leave(&self, generation: usize) {
        let mut current = self.current.lock();
        if current.generation == generation {
            current.generation = current.generation.wrapping_add(1);
            current.client = None;
        }
    }

    /// Leaves whichever member is current: a watch on it broke.
    pub(super) fn leave_any(&self) {
        let generation = self.current.lock().generation;
        self.leave(generation);
    }
}

fn read_tls(tls: &EtcdTls) -> Result<TlsOptions, CoordinationError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| CoordinationError::Refused {
            detail: format!("cannot read {} for TLS to etcd: {error}", path.display()),
        })
    };
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    if let Some((certificate, key)) = &tls.identity {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}

/// Whether asking again cannot do a thing twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Doing it twice is as good as once.
    Idempotent,
    /// Only what was certainly never sent may be sent again.
    Once,
}
