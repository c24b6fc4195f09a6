//! A collector that keeps and decodes what it is sent by OTLP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A span as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of who told it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its trace.
    pub trace: Vec<u8>,
    /// Its id.
    pub id: Vec<u8>,
    /// Its parent's id. Empty: it is the root.
    pub parent: Vec<u8>,
}

/// What was told so far.
#[derive(Debug, Default)]
struct Told {
    spans: Mutex<Vec<Span>>,
    /// Names of metrics by service.
    metrics: Mutex<BTreeMap<String, Vec<String>>>,
}

/// A running collector. Ends when dropped.
#[derive(Debug)]
pub struct Collector {
    told: Arc<Told>,
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Collector {
    /// On a free port of loopback.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the collector")?;
        let address = listener.local_addr()?;
        let told = Arc::new(Told::default());
        let face = Face(Arc::clone(&told));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let served = tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(face.clone()))
                .add_service(MetricsServiceServer::new(face))
                .serve_with_incoming(TcpIncoming::from(listener));
            served.await.expect("the collector serves");
        });
        Ok(Self { told, address, _serving: serving })
    }

    /// Where it listens, for `--otlp-endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.told.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names of the metrics that a service sent last.
    pub fn metrics(&self, service: &str) -> Vec<String> {
        let metrics = self.told.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.get(service).cloned().unwrap_or_default()
    }
}

#[derive(Debug, Clone)]
struct Face(Arc<Told>);

fn service_of(resource: Option<&Resource>) -> String {
    let attributes = resource.into_iter().flat_map(|resource| &resource.attributes);
    let mut named = attributes.filter(|attribute| attribute.key == "service.name");
    match named.next().and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(name)) => name.clone(),
        _ => String::new(),
    }
}

#[tonic::async_trait]
impl TraceService for Face {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for all in request.into_inner().resource_spans {
            let service = service_of(all.resource.as_ref());
            spans.extend(all.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Span {
                service: service.clone(),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Face {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut metrics = self.0.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        for all in request.into_inner().resource_metrics {
            let names =
                all.scope_metrics.into_iter().flat_map(|scope| scope.metrics).map(|metric| metric.name);
            metrics.insert(service_of(all.resource.as_ref()), names.collect());
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
