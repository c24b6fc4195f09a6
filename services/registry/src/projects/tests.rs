//! What holds of deletions that are asked for again, over real etcd.

use skerry_model::Code;
use skerry_store::{Key, StoreConfig, Target};
use skerry_testing::Etcd;

use skerry_proto::types::v1::Metadata;

use super::*;

async fn create(projects: &Projects) {
    let metadata = Metadata { name: "shop".to_owned(), ..Metadata::default() };
    let project = Project { metadata: Some(metadata), ..Project::default() };
    let create = pb::CreateProjectRequest { project: Some(project), ..Default::default() };
    projects.create_project(called(create)).await.unwrap();
}

async fn delete(projects: &Projects, request_id: &str) -> Result<(), Status> {
    let delete = pb::DeleteProjectRequest {
        name: "projects/shop".to_owned(),
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    projects.delete_project(called(delete)).await.map(|_| ())
}

/// By a caller of a listener without TLS.
fn called<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer { address: None, certificate: None });
    request
}

#[tokio::test]
async fn a_deletion_that_is_repeated_or_refused_closes_no_project() {
    let etcd = Etcd::start().await.unwrap();
    let target = Target::parse(&etcd.endpoint()).unwrap();
    let store = Store::connect(StoreConfig::new(target).written_by("registry")).await.unwrap();
    let shutdown = Shutdown::new();
    let projects = Projects::start(&store, &shutdown).await.unwrap();
    let key = Key::<stored::ProjectRecord>::of(&ProjectRef::parse("projects/shop").unwrap());
    let is_open = async || store.get(&key).await.unwrap().unwrap().value.delete_time.is_none();

    create(&projects).await;
    let refused = delete(&projects, "not an id").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(is_open().await, "nothing was asked that could be done");

    delete(&projects, "id-1").await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), None);
    create(&projects).await;
    delete(&projects, "id-1").await.unwrap();
    assert!(is_open().await, "the delayed repeat closes no namesake");
    let fault =
        projects.close(&key.name(), "1", &Caused::by("Delete", &called(())), &|txn| txn).await.unwrap_err();
    assert_eq!(fault.code, Code::Aborted);
    assert!(is_open().await);
    store.close().await;
}
