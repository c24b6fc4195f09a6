//! Dependencies between the services of an app: the order, and the cycle if there is none.

use std::collections::BTreeMap;

use crate::ServiceName;

use super::ServiceSpec;

/// Services in an order in which each comes after those it depends on, as indices; stable: otherwise the spec's order.
/// `Err` holds the services of one cycle. Dependencies on unknown services are passed over.
pub fn start_order(services: &[ServiceSpec]) -> Result<Vec<usize>, Vec<ServiceName>> {
    let index: BTreeMap<&ServiceName, usize> =
        services.iter().enumerate().map(|(i, s)| (&s.name, i)).collect();
    let needs: Vec<Vec<usize>> = services
        .iter()
        .map(|s| s.depends_on.iter().filter_map(|d| index.get(&d.service).copied()).collect())
        .collect();
    let mut placed = vec![false; services.len()];
    let mut order = Vec::with_capacity(services.len());
    while order.len() < services.len() {
        match (0..services.len()).find(|i| !placed[*i] && needs[*i].iter().all(|need| placed[*need])) {
            Some(next) => {
                placed[next] = true;
                order.push(next);
            }
            None => return Err(cycle(services, &needs, &placed)),
        }
    }
    Ok(order)
}

/// Follows unmet needs until one service comes again.
fn cycle(services: &[ServiceSpec], needs: &[Vec<usize>], placed: &[bool]) -> Vec<ServiceName> {
    let unmet = |i: usize| needs[i].iter().copied().find(|need| !placed[*need]);
    let Some(mut at) = placed.iter().position(|done| !done) else { return Vec::new() };
    let mut path = Vec::new();
    while !path.contains(&at) {
        path.push(at);
        match unmet(at) {
            Some(next) => at = next,
            None => return Vec::new(),
        }
    }
    let from = path.iter().position(|seen| *seen == at).unwrap_or(0);
    path[from..].iter().map(|i| services[*i].name.clone()).collect()
}
