# Draws the picture: how many zones had summer time in each year, and which.
#
# in:  regions.tsv, events.tsv, then what join writes
# out: an SVG document

BEGIN {
    FS = "\t"
    left = 150; top = 132; column = 7.6; height = 250; row = 2; gap = 9
}

FILENAME ~ /regions\.tsv$/ {
    if ($0 !~ /^#/ && $2 != "-" && !($2 in colour)) { region[++regions] = $2; colour[$2] = $3; label[$2] = $4 }
    next
}
FILENAME ~ /events\.tsv$/ {
    if ($0 !~ /^#/) { event_year[++events] = $1; event[events] = $2 }
    next
}
$1 == "Z" {
    if (!(($2, $3) in row_of)) { row_of[$2, $3] = ++rows[$2]; title[$2, rows[$2]] = $3; zones++ }
    # 0: no clock of record; 1: no summer time; 2, 3, 4: a short, an ordinary, a long one.
    level[$2, row_of[$2, $3], $4] = $6 == 0 ? 0 : $5 == 0 ? 1 : $5 < $6 / 3 ? 2 : $5 <= 2 * $6 / 3 ? 3 : 4
}
$1 == "Y" {
    had[$2, $3] = $4
    if (first == "") first = $3
    if ($3 > last) last = $3
    sum[$3] += $4
    if (sum[$3] > most) { most = sum[$3]; best = $3 }
}

function x(year) { return sprintf("%.1f", left + (year - first) * column) }
function y(count) { return sprintf("%.1f", top + height - count * height / limit) }
function escaped(text) {
    gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); gsub(/"/, "\\&quot;", text)
    return text
}
function say(at_x, at_y, class, text) {
    printf "<text x=\"%s\" y=\"%s\" class=\"%s\">%s</text>\n", at_x, at_y, class, escaped(text)
}
function box(at_x, at_y, w, h, fill, opacity) {
    printf "<rect x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\" fill=\"%s\"", at_x, at_y, w, h, fill
    if (opacity < 1) printf " fill-opacity=\"%s\"", opacity
    print "/>"
}
function line(x1, y1, x2, y2, class) {
    printf "<line x1=\"%s\" y1=\"%s\" x2=\"%s\" y2=\"%s\" class=\"%s\"/>\n", x1, y1, x2, y2, class
}
# Years under a panel that ends at `bottom`.
function years(bottom,    year) {
    for (year = first; year <= last + 1; year += 10) {
        line(x(year), bottom, x(year), bottom + 5, "axis")
        say(x(year), bottom + 19, "middle", year)
    }
}

# The stacked steps of one region: along the upper edge and back along the lower.
function area(r,    year, there, back) {
    there = "M" x(first) " " y(below[first] + had[r, first])
    back = ""
    for (year = first; year <= last; year++) {
        there = there "V" y(below[year] + had[r, year]) "H" x(year + 1)
        back = "V" y(below[year]) "H" x(year) back
        below[year] += had[r, year]
    }
    printf "<path d=\"%s%sZ\" fill=\"%s\"/>\n", there, back, colour[r]
}

# One row of the lower panel, equal years joined.
function stripe(r, n, at_y,    year, from, l) {
    from = first
    for (year = first + 1; year <= last + 1; year++) {
        l = level[r, n, from]
        if (year <= last && level[r, n, year] == l) continue
        if (l == 1) box(x(from), at_y, (year - from) * column, row, "#e9e9e6", 1)
        if (l > 1) box(x(from), at_y, (year - from) * column, row, colour[r], opacity[l])
        from = year
    }
}

END {
    opacity[2] = 0.45; opacity[3] = 0.75; opacity[4] = 1
    limit = (int(most / 25) + 1) * 25
    right = left + (last + 1 - first) * column
    panel = top + height + 92
    bottom = panel
    for (r = 1; r <= regions; r++) bottom += rows[region[r]] * row + (r < regions ? gap : 0)
    width = right + 40
    total = bottom + 76

    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n", width, total, width, total
    print "<title>Summer time around the world, " first " to " last "</title>"
    print "<style>text{font:13px 'DejaVu Sans',Verdana,sans-serif;fill:#333}.head{font-size:23px;font-weight:bold;fill:#111}.sub{font-size:14px;fill:#555}"
    print ".panel{font-size:14px;font-weight:bold;fill:#111}.middle{text-anchor:middle}.end{text-anchor:end}.small{font-size:11.5px;fill:#666}.note{font-size:11.5px;fill:#333;text-anchor:start}"
    print ".axis{stroke:#777}.grid{stroke:#ddd}.mark{stroke:#333;stroke-dasharray:3 3;stroke-opacity:.55}</style>"
    box(0, 0, width, total, "#fff", 1)
    say(30, 42, "head", "Summer time around the world, " first " to " last)
    say(30, 66, "sub", zones " time zones of the tz database. In " best " clocks were put ahead for a part of the year in " most " of them, in " last " in " sum[last] ".")

    # Upper panel: how many.
    say(30, top - 24, "panel", "Zones with summer time in the year")
    for (n = 0; n <= limit; n += 25) {
        line(left, y(n), right, y(n), n ? "grid" : "axis")
        say(left - 8, y(n) + 4, "end", n)
    }
    for (r = 1; r <= regions; r++) area(region[r])
    years(top + height)
    for (r = 1; r <= regions; r++) {
        box(left + 16, top + 10 + 19 * (r - 1), 13, 13, colour[region[r]], 1)
        say(left + 36, top + 21 + 19 * (r - 1), "", label[region[r]])
    }

    # Lower panel: which.
    say(30, panel - 24, "panel", "Each zone as one line")
    legend = left + 230
    box(legend, panel - 35, 22, 12, "#e9e9e6", 1); say(legend + 28, panel - 24.5, "small", "none")
    box(legend + 76, panel - 35, 22, 12, "#555", opacity[2]); say(legend + 104, panel - 24.5, "small", "under a third of the year")
    box(legend + 270, panel - 35, 22, 12, "#555", opacity[3]); say(legend + 298, panel - 24.5, "small", "one to two thirds")
    box(legend + 416, panel - 35, 22, 12, "#555", opacity[4]); say(legend + 444, panel - 24.5, "small", "over two thirds")
    say(legend + 552, panel - 24.5, "small", "white: no record")
    at = panel
    print "<g shape-rendering=\"crispEdges\">"
    for (r = 1; r <= regions; r++) {
        middle[r] = at + rows[region[r]] * row / 2
        for (n = 1; n <= rows[region[r]]; n++) {
            printf "<g><title>%s</title>\n", escaped(title[region[r], n])
            stripe(region[r], n, at)
            print "</g>"
            at += row
        }
        at += gap
    }
    print "</g>"
    for (r = 1; r <= regions; r++) {
        say(left - 8, middle[r] + 1, "end", label[region[r]])
        say(left - 8, middle[r] + 15, "end small", rows[region[r]] " zones")
    }
    years(bottom)

    for (i = 1; i <= events; i++) {
        line(x(event_year[i]), top - 6, x(event_year[i]), top + height, "mark")
        line(x(event_year[i]), panel, x(event_year[i]), bottom, "mark")
        say(x(event_year[i]) + 4, top - 2, "note", event_year[i] ": " event[i])
    }
    say(30, total - 22, "small", "Zones as distinguished since 1970, without Antarctica; before that each stands for the place it is named after. Source: IANA time zone database 2025b.")
    print "</svg>"
}
