//! What is said of a refusal, and what is summed. The laws of changes of several resources are held with the rules of all kinds, in
//! `skerry-resources`.

use skerry_store::keys::Counted;

use super::*;

#[test]
fn a_refusal_says_which_resource_and_has_its_fields_below_it() {
    let fault = Fault::invalid_field("app.spec.services[0].name", "is wrong");
    let told = of_part(fault, 3, "app", "projects/p/apps/web");
    assert_eq!(told.violations[0].field, "resources[3].app.spec.services[0].name");
    assert_eq!(told.message, "projects/p/apps/web: app.spec.services[0].name: is wrong");
    assert_eq!(told.metadata["index"], "3");
    let told = of_part(
        Fault::not_found("projects/p/roleBindings/x"),
        0,
        "role_binding",
        "projects/p/roleBindings/x",
    );
    assert_eq!(told.message, "projects/p/roleBindings/x does not exist", "it is named already");
    assert_eq!(told.metadata["kind"], "RoleBinding");
}

#[test]
fn charges_of_one_thing_are_one_and_none_that_comes_to_nothing() {
    let charges = [
        (Counted::Apps, 1),
        (Counted::Bytes, 7),
        (Counted::Apps, 1),
        (Counted::Bytes, -7),
        (Counted::Configs, -1),
    ];
    assert_eq!(tenancy::sum_of(charges), [(Counted::Apps, 2), (Counted::Configs, -1)]);
}
