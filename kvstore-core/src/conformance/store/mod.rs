//! The cases of [`Store`](crate::store::Store), each a statement that holds for every store.

mod advances;
mod commits;
mod dead_letters;
mod entries;
mod expiry;
mod listing;
mod outcomes;
mod watching;

pub use advances::*;
pub use commits::*;
pub use dead_letters::*;
pub use entries::*;
pub use expiry::*;
pub use listing::*;
pub use outcomes::*;
pub use watching::*;

/// Generates a test for each promise of a [`Store`](crate::store::Store), in a module `store`.
///
/// The argument makes a [`StoreHarness`](crate::conformance::StoreHarness); it is evaluated once
/// for each test, in an async context.
#[macro_export]
macro_rules! store_conformance {
    ($harness:expr) => {
        $crate::__conformance_cases! { $harness, store:
            a_new_store_is_empty
            values_come_back_byte_for_byte
            keys_are_compared_byte_for_byte
            get_many_answers_in_the_order_asked
            an_entry_holds_what_its_write_said
            a_second_handle_sees_what_the_first_wrote
            entries_survive_a_restart
            a_closed_store_refuses
            every_write_gets_the_next_version
            a_key_may_repeat_in_one_commit
            versions_grow_across_delete_and_recreate
            existed_tells_what_was_there_just_before
            a_commit_without_writes_tells_the_latest_version
            conditions_hold_as_they_say
            conflict_names_the_first_failed_check
            a_failed_check_changes_nothing
            checks_are_judged_before_the_writes_of_their_commit
            checks_are_judged_before_the_position
            what_is_acknowledged_is_visible_at_once
            a_commit_is_seen_whole
            compare_and_set_loses_no_update
            only_one_of_many_creates
            a_commit_that_nobody_waits_for_is_whole_or_absent
            an_entry_lives_until_its_deadline
            a_time_to_live_counts_from_the_commit
            a_time_to_live_without_end_ends_late
            expired_entry_is_absent
            expired_entry_is_absent_to_conditions
            expired_entry_is_absent_to_writes
            deadline_in_the_past_is_an_applied_write
            a_new_value_has_its_own_deadline
            expire_removes_what_has_expired_and_nothing_else
            expire_is_announced_with_a_version_of_its_own
            time_never_goes_back
            list_is_in_byte_order
            list_takes_a_prefix_literally
            list_hands_out_values_only_if_asked
            list_counts_all_keys_of_the_prefix
            list_folds_at_the_delimiter
            the_last_page_has_no_next
            a_list_request_out_of_bounds_is_refused
            list_agrees_with_a_sorted_map
            a_key_that_stays_appears_once_while_others_come_and_go
            a_partition_advances_with_the_writes
            positions_have_two_parts
            stale_advance_changes_nothing
            one_of_many_like_advances_wins
            partitions_advance_each_on_its_own
            an_advance_goes_forward
            outcomes_that_make_no_sense_are_refused
            a_second_queue_is_refused_until_adopted
            a_job_ahead_of_the_position_is_queued
            kept_outcomes_tell_versions_and_what_existed
            failures_are_told_as_they_were
            outcome_wakes_when_applied
            outcome_waits_no_longer_than_asked
            outcome_of_another_queue_is_unknown
            lost_interval_is_unknown
            outcomes_are_bounded_in_number
            outcomes_are_bounded_in_age
            dead_letters_are_listed_in_order
            a_forgotten_dead_letter_is_gone
            dead_letters_stay_for_ever
            dead_letters_are_bounded
            watch_shows_every_change_in_order
            watch_from_now_shows_nothing_older
            a_watch_resumes_behind_any_change
            a_watch_from_a_page_misses_nothing_of_what_comes_after_it
            a_value_goes_out_only_with_its_own_version
            no_expired_value_goes_out
            a_delete_of_nothing_is_not_announced
            a_watch_shows_what_was_asked_for_alone
            many_who_watch_apart_hear_of_their_own_keys
            a_mirror_of_the_changes_is_the_store
            watchers_see_what_concurrent_writers_do
            a_point_out_of_the_history_is_compacted
            a_point_that_is_no_id_is_refused
            a_watch_that_falls_behind_ends_with_compacted
            a_watch_over_a_restart_skips_nothing
            a_watch_ends_when_the_store_is_closed
        }
    };
}
