# A table of the same for the terminal: of each region's zones, how many had summer time in an ordinary year of the decade.
#
# in:  what join writes
# out: text

BEGIN { FS = "\t" }

$1 == "Y" {
    decade = int($3 / 10) * 10
    if (!($2 in seen)) { seen[$2] = 1; region[++regions] = $2 }
    if (first == "") first = decade
    if (decade > last) last = decade
    had[$2, decade] += $4
    zones[$2, decade] += $5
}

END {
    printf "%-8s", "decade"
    for (r = 1; r <= regions; r++) printf "%10s", region[r]
    print ""
    for (d = first; d <= last; d += 10) {
        printf "%-8s", d "s"
        for (r = 1; r <= regions; r++) printf "%9.0f%%", 100 * had[region[r], d] / zones[region[r], d]
        print ""
    }
}
