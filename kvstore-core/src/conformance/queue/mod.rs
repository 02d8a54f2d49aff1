//! The cases of [`JobQueue`](crate::queue::JobQueue), each a statement that holds for every queue.

mod accepting;
mod attempts;
mod bounds;
mod claims;
mod idempotency;
mod reading;

pub use accepting::*;
pub use attempts::*;
pub use bounds::*;
pub use claims::*;
pub use idempotency::*;
pub use reading::*;

/// Generates a test for each promise of a [`JobQueue`](crate::queue::JobQueue), in a module
/// `queue`, and for each promise that it keeps together with the store that applies it, in a module
/// `together`.
///
/// The argument makes a [`QueueHarness`](crate::conformance::QueueHarness); it is evaluated once
/// for each test, in an async context.
#[macro_export]
macro_rules! queue_conformance {
    ($harness:expr) => {
        $crate::__conformance_cases! { $harness, queue:
            a_new_queue_is_empty
            ids_are_unique_and_ordered
            jobs_of_one_call_keep_their_order
            many_producers_keep_the_order_of_each
            read_returns_what_was_accepted
            accepted_jobs_survive_a_restart
            an_id_is_never_used_again
            a_job_that_breaks_a_rule_is_refused_alone
            start_after_moves_the_numbering
            start_after_what_lies_behind_changes_nothing
            find_knows_what_is_held
            find_knows_what_never_was
            depth_counts_jobs_bytes_and_age
            an_enqueue_that_nobody_waits_for_happens_or_not
            a_closed_queue_refuses
            read_follows_a_position
            read_takes_nothing_away
            peek_needs_no_claim_and_takes_nothing_away
            read_waits_for_a_job
            read_waits_no_longer_than_asked
            complete_drops_nothing_unread
            a_completed_job_is_remembered_as_accepted
            read_never_passes_over_a_job_in_silence
            a_waiting_read_ends_when_the_queue_is_closed
            a_queue_is_full_by_jobs
            a_queue_is_full_by_bytes
            each_partition_has_its_own_bound
            a_queue_filled_and_drained_often_stays_usable
            a_repeated_request_is_the_same_job
            a_request_repeated_in_one_call_is_one_job
            a_request_repeated_at_the_same_time_is_one_job
            a_key_with_another_request_is_refused
            a_key_is_remembered_through_completion_and_restart
            a_key_is_forgotten_after_its_window
            a_full_queue_still_answers_repeated_requests
            keys_are_bounded_in_number
            a_key_makes_room_for_others_after_its_minimum
            a_lone_worker_has_every_partition
            workers_share_fairly_and_never_overlap
            a_released_partition_is_free_at_once
            a_claim_ends_unless_it_is_renewed
            a_renewed_claim_does_not_end
            attempts_are_counted_from_one
            an_attempt_can_be_withdrawn
            each_head_has_its_own_attempts
            attempts_survive_a_restart
            attempts_go_on_with_another_worker
        }
        $crate::__conformance_cases! { $harness, together:
            what_is_accepted_is_applied_in_order
            a_worker_that_dies_before_its_commit_loses_nothing
            a_worker_that_dies_after_its_commit_doubles_nothing
            workers_on_one_partition_apply_each_job_once
            many_workers_and_producers_keep_every_order
            order_holds_beside_direct_commits
            a_condition_is_judged_when_its_turn_comes
            a_batch_takes_effect_whole_or_not_at_all
            time_in_the_queue_does_not_prolong_life
            a_restart_between_jobs_changes_nothing
            a_request_sent_again_has_one_effect
            a_queue_behind_its_store_numbers_past_it
            a_store_of_another_queue_is_refused
            a_store_older_than_its_queue_meets_a_gap
        }
        $crate::__conformance_cases! { $harness, commands:
            adds_to_one_counter_are_applied_together_and_all_count
            adds_beside_direct_commits_all_count
            an_add_to_anything_but_a_64_bit_integer_fails
            the_deadline_of_a_counter_counts_from_its_creation
            a_counter_that_waited_longer_than_it_lives_starts_again
            a_merge_changes_what_it_names_and_no_other_byte
            a_merge_into_more_than_its_bound_fails
            a_touch_changes_the_deadline_alone
            a_batch_depends_on_keys_that_it_only_checks
            a_retried_add_counts_once_and_is_answered_alike
            outcomes_of_commands_survive_a_restart
        }
    };
}
