//! A listener that cannot serve yet: every call is answered at once with the same fault, instead of waiting in silence.

use std::sync::Arc;
use std::task::{Context, Poll};

use skerry_model::Fault;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::{Layer, Service};

use crate::door::Door;
use crate::error::status_of;
use crate::peer::Access;
use crate::server::ServeError;
use crate::tls::incoming;

/// Answers every call on `listener` with `fault`, until `end`. Of `access` only its TLS counts: there is nothing to guard.
pub async fn refuse_all(
    listener: TcpListener,
    access: &Access,
    fault: Fault,
    end: CancellationToken,
) -> Result<(), ServeError> {
    let incoming = incoming(listener, access.tls(), Door::of_process());
    let server = tonic::transport::Server::builder()
        .layer(RefuseLayer(Arc::new(fault)))
        .add_routes(Routes::default())
        .serve_with_incoming_shutdown(incoming, end.cancelled());
    tokio::select! {
        served = server => served?,
        // Nothing of what is answered is worth waiting for.
        () = end.cancelled() => {}
    }
    Ok(())
}

#[derive(Debug, Clone)]
struct RefuseLayer(Arc<Fault>);

#[derive(Debug, Clone)]
struct RefuseService<S> {
    _inner: S,
    fault: Arc<Fault>,
}

impl<S> Layer<S> for RefuseLayer {
    type Service = RefuseService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        RefuseService { _inner: inner, fault: Arc::clone(&self.0) }
    }
}

impl<S, B, R> Service<http::Request<B>> for RefuseService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::future::Ready<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<B>) -> Self::Future {
        std::future::ready(Ok(status_of(&self.fault).into_http()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_proto::registry::v1::GetNodeRequest;
    use skerry_proto::registry::v1::node_service_client::NodeServiceClient;

    #[tokio::test]
    async fn every_call_is_answered_and_the_listener_is_free_afterwards() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("bound");
        let copy = TcpListener::from_std(listener.try_clone().expect("cloned")).expect("a listener");
        let end = CancellationToken::new();
        let fault = Fault::unavailable("the store does not answer yet");
        let refusing = refuse_all(copy, &Access::Loopback, fault, end.clone());
        let asking = async {
            let channel = crate::connect(&address.to_string(), None).await.expect("connected");
            let answer = NodeServiceClient::new(channel).get_node(GetNodeRequest::default()).await;
            end.cancel();
            answer.expect_err("refused")
        };
        let (served, status) = tokio::join!(refusing, asking);
        served.expect("served");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(crate::fault_of(&status).message, "the store does not answer yet");
        drop(listener);
    }
}
