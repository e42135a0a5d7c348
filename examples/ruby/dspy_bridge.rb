# frozen_string_literal: true

# A client of dspy-bridge for Ruby 2.7 or newer; the standard library only. Copy this file.
require "json"
require "open3"

module DspyBridge
  # An error reply of the daemon: `code` is one of its closed list; or "gone" where the daemon has ended.
  class Error < StandardError
    attr_reader :code, :retryable, :details

    def initialize(error)
      super(error["message"])
      @code, @retryable, @details = error.values_at("code", "retryable", "details")
    end
  end

  # One daemon, private to this process: it ends with it. Safe to use from several threads.
  class Bridge
    attr_reader :ready, :pid

    def initialize(command = "bridge-cli", *args)
      args = ["serve"] if args.empty?
      @stdin, @stdout, @process = Open3.popen2(command, *args)
      @pid = @process.pid
      @last_id = 0
      @open = {}
      @hosted = { "tool" => {}, "lm" => {} }
      @lock = Mutex.new
      @writing = Mutex.new
      line = @stdout.gets or raise gone
      @ready = JSON.parse(line)
      @reader = Thread.new { read }
    end

    # A tool (or a metric) of this host; what the block raises is an observation. Called in threads of their own.
    def tool(name, &work)
      @hosted["tool"][name] = work
    end

    # A model of this host, for {model: "host/name"}: the block gives a text or a chat completion.
    def model(name, &work)
      @hosted["lm"][name] = work
    end

    # The result of one command. Raises Error. The block, if there is one, gets each event first.
    def call(command, args = {}, **options, &on_event)
      wait(start(command, args, **options, &on_event))
    end

    # Send a request and return its id, for `wait` and `cancel`.
    def start(command, args = {}, session: nil, timeout_ms: nil, &on_event)
      id = @lock.synchronize do
        raise gone if @gone

        @last_id += 1
        @open[@last_id] = { reply: Queue.new, on_event: on_event }
        @last_id
      end
      write({ id: id, command: command, args: args, session_id: session, timeout_ms: timeout_ms }.compact)
      id
    end

    def wait(id)
      reply = @open.fetch(id)[:reply].pop
      @lock.synchronize { @open.delete(id) }
      raise Error, reply["error"] unless reply["success"]

      reply["result"]
    end

    def cancel(id)
      call("cancel", { request_id: id })
    end

    # End the daemon in order: what is open may finish. Its exit status.
    def close
      @stdin.close
      @reader.join
      @process.value
    end

    private

    def read
      while (line = @stdout.gets)
        frame = JSON.parse(line)
        if frame["call_id"]
          Thread.new { answer(frame) }
        elsif frame["event"]
          @open.dig(frame["id"], :on_event)&.call(frame)
        else
          @open.dig(frame["id"], :reply)&.push(frame)
        end
      end
    ensure
      @lock.synchronize do
        @gone = true
        @open.each_value { |open| open[:reply].push({ "error" => { "code" => "gone", "message" => gone.message } }) }
      end
    end

    def answer(frame)
      work = @hosted.dig(frame["call"], frame["name"]) or raise "this host has no #{frame['call']} #{frame['name']}"
      write({ call_id: frame["call_id"], success: true, result: work.call(frame["args"]) })
    rescue StandardError => e
      write({ call_id: frame["call_id"], success: false, error: { message: e.message } })
    end

    def write(frame)
      @writing.synchronize { @stdin.write("#{JSON.generate(frame)}\n") }
    rescue Errno::EPIPE, IOError
      nil # the reader has the last word
    end

    def gone
      Error.new({ "code" => "gone", "message" => "the daemon has gone" })
    end
  end
end
