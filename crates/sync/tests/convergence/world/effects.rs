//! What the machines ask for, done to the world: frames on the wire, writes to the disk and the store.

use super::*;

impl World {
    pub(super) fn feed_agent(&mut self, event: AgentEvent) {
        let now = self.now();
        for effect in self.agent.on(event, now) {
            match effect {
                AgentEffect::Dial => self.dialling = true,
                AgentEffect::Send(frame) => {
                    if let Some(Up::Ack(ack)) = &frame.body
                        && ack.refused.is_empty()
                    {
                        let acked = ack.version.map(Version::from);
                        assert_eq!(acked, self.disk.version, "acknowledged what is not on disk");
                    }
                    self.frames += 1;
                    let conn = self.attached.expect("frames are sent on an open stream");
                    self.conns[conn].up.push_back(frame);
                }
                AgentEffect::Persist { token, desired } => {
                    assert!(self.persisting.is_none(), "two writes at once");
                    self.persisting = Some((token, desired));
                }
                AgentEffect::Apply { desired } => {
                    assert_eq!(desired, self.disk, "applied what is not on disk");
                }
                AgentEffect::Hangup { .. } => {
                    self.dialling = false;
                    self.detach();
                }
                AgentEffect::TakeIdentity { .. } => panic!("there is no identity to renew"),
                AgentEffect::GpuFeedback(_) => panic!("no agent here has GPUs"),
                AgentEffect::OpenChannel(_) => panic!("no relay is here"),
                AgentEffect::Told(Told::StaleRefused { offered, held }) => assert!(offered < held),
                AgentEffect::Told(_) => {}
            }
        }
    }

    pub(super) fn feed_session(&mut self, index: usize, event: SessionEvent) {
        if self.conns[index].ended {
            return;
        }
        let now = self.now();
        for effect in self.conns[index].session.on(event, now) {
            let conn = &mut self.conns[index];
            match effect {
                SessionEffect::Open(hello) => conn.io.push(Io::Open(hello)),
                SessionEffect::Load { token, names } => conn.io.push(Io::Load(token, names)),
                SessionEffect::Commit { token, change } => conn.io.push(Io::Commit(token, change)),
                SessionEffect::Renew(_) => panic!("there is no identity to renew"),
                SessionEffect::OfferAnswered { .. } => panic!("no relay is here"),
                SessionEffect::GpuFrame(_) => panic!("no agent here has GPUs"),
                SessionEffect::Close => conn.io.push(Io::Close),
                SessionEffect::Send(frame) => {
                    assert!(frame.encoded_len() <= limits::FRAME_BYTES_MAX);
                    if let Some(Down::ReportAck(ack)) = &frame.body {
                        assert!(conn.committed.contains(&ack.sequence), "acknowledged before the commit");
                    }
                    self.frames += 1;
                    if !conn.cut {
                        conn.down.push_back(frame);
                    }
                }
                SessionEffect::End(ending) => {
                    assert!(
                        matches!(ending, Ending::Finished | Ending::Silent | Ending::HelloTimeout),
                        "{ending:?}"
                    );
                    conn.ended = true;
                    conn.up.clear();
                }
            }
        }
        if self.attached == Some(index) && self.conns[index].ended && self.conns[index].down.is_empty() {
            self.detach();
            self.feed_agent(AgentEvent::Disconnected { why: "ended".to_owned(), retry_after: None });
        }
    }

    pub(super) fn assignment_event(&self) -> Assignment {
        let (revision, record) = &self.store.assignment;
        Assignment { version: Version::new(1, *revision), record: Arc::clone(record) }
    }

    // The store.

    pub(super) fn io_failed(&mut self, conn: usize, io: &Io) {
        let why = "away".to_owned();
        match io {
            Io::Open(_) => self.feed_session(conn, SessionEvent::OpenFailed(OpenFailure::Unavailable(why))),
            Io::Load(token, _) => self.feed_session(conn, SessionEvent::LoadFailed { token: *token, why }),
            Io::Commit(token, _) => {
                self.feed_session(conn, SessionEvent::CommitFailed { token: *token, why });
            }
            // The closer tries again.
            Io::Close => self.conns[conn].io.push(Io::Close),
        }
    }

    pub(super) fn store_does(&mut self, conn: usize, io: usize, answer: bool) {
        let io = self.conns[conn].io.remove(io);
        let failed = io.clone();
        let event = match io {
            Io::Open(hello) => {
                self.store.revision += 1;
                self.store.session = (self.store.revision, hello.boot_id);
                self.conns[conn].epoch = self.store.revision;
                self.conns[conn].told = self.store.revision;
                let status = self.store.status.as_ref();
                SessionEvent::Opened(Box::new(Opened {
                    epoch: Version::new(1, self.store.revision),
                    node_uid: "uid".to_owned(),
                    status_digest: status.map(merge::status_digest).unwrap_or_default(),
                    acknowledged: status.and_then(merge::acknowledged_version),
                    has_refused: status.is_some_and(|status| !status.refused.is_empty()),
                    reported: status.iter().flat_map(|s| &s.instances).map(|i| i.instance.clone()).collect(),
                    assignment: Some(self.assignment_event()),
                    renew_only: false,
                    roots: None,
                }))
            }
            Io::Load(token, names) => {
                let mut resources = Vec::new();
                let mut missing = Vec::new();
                for name in names {
                    match self.store.contents.get(&name) {
                        Some((bytes, requires)) => {
                            let parsed = ResourceName::parse(&name).expect("a content's name");
                            resources.extend(content_resource(&parsed, bytes.clone(), requires.clone()));
                        }
                        None => missing.push(name),
                    }
                }
                SessionEvent::Loaded { token, resources, missing }
            }
            Io::Commit(token, change) => match self.commit(conn, &change) {
                Some(digest) => SessionEvent::Committed { token, digest },
                None => SessionEvent::Superseded { boot_id: self.store.session.1.clone() },
            },
            Io::Close => {
                if self.store.session.0 == self.conns[conn].epoch {
                    self.store.revision += 1;
                    self.store.session.0 = self.store.revision;
                }
                return;
            }
        };
        if answer { self.feed_session(conn, event) } else { self.io_failed(conn, &failed) }
    }

    pub(super) fn commit(&mut self, conn: usize, change: &Change) -> Option<Bytes> {
        if self.store.session.0 != self.conns[conn].epoch {
            return None;
        }
        let status = self.store.status.clone().unwrap_or_default();
        let merged = merge::merge(&status, &self.store.events, change);
        if let Some(status) = merged.status {
            self.store.old_status = self.store.status.replace(status);
            self.store.revision += 1;
        }
        if let Some(events) = merged.events {
            let old: BTreeSet<_> =
                self.store.events.events.iter().map(|e| (&e.boot_id, e.sequence)).collect();
            for event in events.events.iter().filter(|e| !old.contains(&(&e.boot_id, e.sequence))) {
                self.store.log.push((event.boot_id.clone(), event.sequence));
            }
            self.store.events = events;
            self.store.revision += 1;
        }
        if let Some(report) = &change.report {
            self.conns[conn].committed.insert(report.sequence);
        }
        Some(merge::status_digest(&self.store.status.clone().unwrap_or_default()))
    }

    // What must be so.
}
