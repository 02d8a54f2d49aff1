# Reads the output of `cargo test --no-fail-fast`, shows it, and tells the tests that this machine
# cannot run, because a program or a right is missing, from those that fail. Succeeds without the
# latter.

{ print; fflush() }

/^ +Running |^ +Doc-tests / { target = $2 == "unittests" ? $3 : $2 }
/^error: test failed, to rerun pass / { ended++; next }
/^error: [0-9]+ targets? failed:/ { next }
/^error(\[|: )/ { errors++ }
/^---- .* stdout ----$/ {
  name = substr($0, 6, length($0) - 17)
  shown[++count] = (target == "" ? "" : target ": ") name
}
# The words of kvstore_testing::missing.
/; to leave out what needs it: \.\/check --available/ && count {
  reasons[count] = substr($0, 1, index($0, "; to leave out what needs it:") - 1)
}
/^test result: / { passed += $4; failed += $6; if ($3 == "FAILED.") judged++ }

END {
  print ""
  for (one = 1; one <= count; one++) {
    reason = reasons[one]
    if (reason == "") { failures = failures "FAILED: " shown[one] "\n"; continue }
    left++
    if (!(reason in tests)) order[++kinds] = reason
    tests[reason] = tests[reason] "  " shown[one] "\n"
  }
  for (kind = 1; kind <= kinds; kind++) printf "left out: %s\n%s", order[kind], tests[order[kind]]
  printf "%s", failures
  printf "%d passed, %d failed, %d left out\n", passed, failed - left, left
  # A target that ends without its result crashed; an error that is no test's is the compiler's.
  exit failed > left || ended > judged || errors > 0
}
