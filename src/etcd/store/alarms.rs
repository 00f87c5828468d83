//! Alarms: what a member has noticed, and everybody has to mind.

use crate::keys;
use crate::machine::Machine;
use crate::range;
use crate::view::Writes;
use proa_etcd_api::etcdserverpb::alarm_request::AlarmAction;
use proa_etcd_api::etcdserverpb::{AlarmMember, AlarmRequest, AlarmResponse, AlarmType};

impl Machine {
    /// Raises, clears or lists alarms. An alarm that does not exist is
    /// neither raised nor found.
    pub(crate) fn alarm(&mut self, writes: &mut Writes, request: &AlarmRequest) -> AlarmResponse {
        let member = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let place = (request.member_id, request.alarm);
        let alarms = match (AlarmAction::try_from(request.action), AlarmType::try_from(request.alarm)) {
            (Ok(AlarmAction::Get), Ok(AlarmType::None)) => self.alarms(),
            (Ok(AlarmAction::Get), Ok(kind)) => {
                self.alarms().into_iter().filter(|member| member.alarm == kind as i32).collect()
            }
            (Ok(AlarmAction::Activate), Ok(AlarmType::Nospace | AlarmType::Corrupt)) => {
                self.alarms.insert(place);
                writes.put(keys::alarm(place.0, place.1), Vec::new());
                vec![member]
            }
            (Ok(AlarmAction::Deactivate), Ok(_)) if self.alarms.remove(&place) => {
                writes.delete(keys::alarm(place.0, place.1));
                vec![member]
            }
            (Ok(AlarmAction::Activate | AlarmAction::Deactivate), Ok(_)) | (Err(_), _) | (_, Err(_)) => {
                Vec::new()
            }
        };
        AlarmResponse { header: range::header(self.head.revision), alarms }
    }
}
