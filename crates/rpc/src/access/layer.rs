//! The layer in which it is decided whether a call may be made, for every method of a listener.
//!
//! Behind it a handler sees only requests that were judged: what a user asks for is read out of the request before the handler gets it. An
//! answer that streams by a user's role ends when the role, the key or the certificate does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use http_body::{Frame, SizeHint};
use skerry_identity::PeerCertificate;
use skerry_model::{Code, Fault, ProjectName, UserRef};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::denied::{tell, tell_answer};
use super::grants::{By, Right};
use super::judge::{Claim, Early, judge, judge_each, judge_request};
use super::message;
use super::role::Authorizer;
use super::table::{ForEach, Rule, rule};
use crate::error::status_of;
use crate::peer::{Access, Peer};

/// Judges each call.
#[derive(Debug, Clone)]
pub(crate) struct AccessLayer(Gate);

/// The service that [`AccessLayer`] makes.
#[derive(Debug, Clone)]
pub(crate) struct AccessService<S> {
    inner: S,
    gate: Gate,
}

#[derive(Debug, Clone)]
enum Gate {
    /// The listener takes nobody's certificate and has decided who may reach it: all but what takes a service's certificate.
    Trusted,
    /// By the table.
    Judged(Arc<dyn Authorizer>),
}

impl AccessLayer {
    pub(crate) fn new(access: &Access, authorizer: Arc<dyn Authorizer>) -> Self {
        Self(match access {
            Access::Loopback | Access::Insecure => Gate::Trusted,
            Access::Certificate(_) => Gate::Judged(authorizer),
        })
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        AccessService { inner, gate: self.0.clone() }
    }
}

type Answer<E> = Result<http::Response<Body>, E>;

impl<S> Service<http::Request<Body>> for AccessService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Answer<S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.gate.judge(&request) {
            Ok(Judged::Pass) => {
                let (uri, peer) = (request.uri().clone(), request.extensions().get::<Peer>().cloned());
                let answer = self.inner.call(request);
                answer
                    .inspect_ok(move |response| tell_answer(uri.path(), peer.as_ref(), response.headers()))
                    .boxed()
            }
            Ok(Judged::OfUser(call, claim)) => {
                // The clone that was ready is used, and the other one left to become it.
                let ready = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, ready);
                call.make(claim, request, inner).boxed()
            }
            Err(fault) => {
                tell(request.uri().path(), request.extensions().get::<Peer>(), None, &fault);
                std::future::ready(Ok(status_of(&fault).into_http())).boxed()
            }
        }
    }
}

enum Judged {
    Pass,
    OfUser(Call, Early),
}

/// A call of a user's.
#[derive(Debug, Clone)]
struct Call {
    method: String,
    peer: Arc<PeerCertificate>,
    authorizer: Arc<dyn Authorizer>,
}

impl Gate {
    fn judge(&self, request: &http::Request<Body>) -> Result<Judged, Fault> {
        let method = request.uri().path();
        let authorizer = match self {
            Self::Judged(authorizer) => authorizer,
            Self::Trusted if matches!(rule(method), Some(Rule::Services(_))) => {
                let message = format!(
                    "{} is for services, and this listener asks nobody who it is",
                    method.trim_start_matches('/')
                );
                return Err(Fault::new(Code::Unauthenticated, "PEER_UNKNOWN", message));
            }
            Self::Trusted => return Ok(Judged::Pass),
        };
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.certificate.as_ref());
        match (judge(method, peer.map(Arc::as_ref), &**authorizer)?, peer) {
            (early @ (Early::Everywhere(_) | Early::ByProject(_) | Early::ByEach(..)), Some(peer)) => {
                let method = method.to_owned();
                let call = Call { method, peer: Arc::clone(peer), authorizer: Arc::clone(authorizer) };
                Ok(Judged::OfUser(call, early))
            }
            (Early::Pass | Early::Everywhere(_) | Early::ByProject(_) | Early::ByEach(..), _) => {
                Ok(Judged::Pass)
            }
        }
    }
}

impl Call {
    async fn make<S>(self, early: Early, request: http::Request<Body>, mut inner: S) -> Answer<S::Error>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>>,
    {
        // Before the judgement: a change that comes while it is made is seen by the stream.
        let changes = self.authorizer.changes();
        let judged = match early {
            Early::Pass => return inner.call(request).await,
            Early::Everywhere(claim) => Ok((request, Some((claim, By::Role(ProjectName::system()))))),
            Early::ByEach(user, each) => {
                self.judge_each(request, &user, &each).await.map(|request| (request, None))
            }
            // Without a project it is about itself, and no stream.
            Early::ByProject(claim) => {
                let judged = self.judge_request(request, &claim).await;
                judged.map(|(request, by)| (request, by.map(|by| (claim, by))))
            }
        };
        let (mut request, about) = match judged {
            Ok(judged) => judged,
            Err(fault) => {
                tell(&self.method, Some(&self.peer()), None, &fault);
                return Ok(status_of(&fault).into_http());
            }
        };
        let streams = about.filter(|(claim, _)| claim.needs.streams);
        let right = streams.map(|held| {
            let who = (self.method.clone(), Arc::clone(&self.peer));
            Right::new(who, Arc::clone(&self.authorizer), held, changes)
        });
        if let Some(right) = &right {
            request.extensions_mut().insert(right.clone());
        }
        let response = inner.call(request).await?;
        tell_answer(&self.method, Some(&self.peer()), response.headers());
        let Some(right) = right else { return Ok(response) };
        let lost = async move { status_of(&right.lost().await) }.boxed();
        Ok(response.map(|body| Body::new(Watched { body, lost, over: false })))
    }

    fn peer(&self) -> Peer {
        Peer { address: None, certificate: Some(Arc::clone(&self.peer)) }
    }

    async fn judge_request(
        &self,
        request: http::Request<Body>,
        claim: &Claim,
    ) -> Result<(http::Request<Body>, Option<By>), Fault> {
        let (parts, body) = request.into_parts();
        let read = message::read(body).await?;
        let now = SystemTime::now();
        let by = judge_request(&self.method, claim, read.message(), &*self.authorizer, now)?;
        Ok((http::Request::from_parts(parts, read.into_body()), by))
    }

    async fn judge_each(
        &self,
        request: http::Request<Body>,
        user: &UserRef,
        each: &ForEach,
    ) -> Result<http::Request<Body>, Fault> {
        let (parts, body) = request.into_parts();
        let read = message::read(body).await?;
        judge_each(user, each, read.message(), &*self.authorizer)?;
        Ok(http::Request::from_parts(parts, read.into_body()))
    }
}

/// An answer that ends with a status when the right to it is lost.
struct Watched {
    body: Body,
    lost: BoxFuture<'static, Status>,
    over: bool,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(status) = self.lost.poll_unpin(cx) {
            self.over = true;
            // What the handler holds goes now, not when the client has hung up.
            self.body = Body::empty();
            let (head, ()) = status.into_http().into_parts();
            return Poll::Ready(Some(Ok(Frame::trailers(head.headers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
